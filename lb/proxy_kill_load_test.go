package lb

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A backend that is killed is a process: this one, started again with the
// address to listen at in this variable.
const backendProcess = "PALISADE_LB_BACKEND"

// serveBackend answers with the length of the body until its input ends.
func serveBackend(addr string) int {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	srv := &http.Server{ErrorLog: log.New(io.Discard, "", 0), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err == nil {
			fmt.Fprintf(w, "%d bytes", n)
		}
	})}
	go srv.Serve(ln)
	fmt.Println(ln.Addr())
	io.Copy(io.Discard, os.Stdin)
	return 0
}

// process is a backend in a process of its own.
type process struct {
	cmd  *exec.Cmd
	addr string
}

func startBackend(t *testing.T, addr string) *process {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), backendProcess+"="+addr)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{cmd: cmd}
	t.Cleanup(func() { in.Close(); p.kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the backend does not start: %v", err)
	}
	p.addr = line[:len(line)-1]
	return p
}

// kill is kill -9.
func (p *process) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

// steadily calls f for each request of a schedule of so many in a second. One that
// cannot be sent in time is sent as soon as it can. It returns how many there are
// in a second in fact.
func steadily(ctx context.Context, rate, requests, workers int, f func(i int)) float64 {
	due := make(chan int, requests)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range due {
				f(i)
			}
		})
	}
	start := time.Now()
	for i := range requests {
		if wait := time.Until(start.Add(time.Duration(i) * time.Second / time.Duration(rate))); wait > 0 {
			time.Sleep(wait)
		}
		if ctx.Err() != nil {
			break
		}
		due <- i
	}
	close(due)
	wg.Wait()
	return float64(requests) / time.Since(start).Seconds()
}

// TestKilledProcess: of two backend processes one is killed at a steady 2,000
// requests/s, and comes back. Every request is answered, and the one that came
// back gets its share. Then both are killed: nothing is asked more than a fifth
// more often than there are requests.
func TestKilledProcess(t *testing.T) {
	const rate, requests, workers = 2000, 6000, 32
	a, b := startBackend(t, "127.0.0.1:0"), startBackend(t, "127.0.0.1:0")
	var attempts, events atomic.Int64
	pool := poolOf(t, PoolConfig{
		Backends: []BackendConfig{{ID: "a", URL: "http://" + a.addr}, {ID: "b", URL: "http://" + b.addr}},
		Health:   &HealthCheck{Path: "/", Interval: 50 * time.Millisecond, Timeout: 5 * time.Second},
		Logger:   slog.New(slog.DiscardHandler),
	}, 0)
	proxy, err := NewProxy(ProxyConfig{Pool: pool, RetryBody: 1 << 10, OnDone: func(e Event) {
		attempts.Add(int64(e.Attempts))
		events.Add(1)
	}})
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewServer(proxy)
	defer front.Close()
	transport := &http.Transport{MaxIdleConnsPerHost: workers}
	defer transport.CloseIdleConnections()
	ask := func(i int) (int, string, error) {
		method, body := http.MethodGet, io.Reader(nil)
		if i%3 == 0 {
			method, body = http.MethodPut, bytes.NewReader(make([]byte, 500))
		}
		req, _ := http.NewRequest(method, front.URL, body)
		res, err := transport.RoundTrip(req)
		if err != nil {
			return 0, "", err
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		return res.StatusCode, string(text), err
	}
	requestsOfA := func() uint64 { return pool.Status()[0].Requests }
	waitForState := func(want string) {
		t.Helper()
		for range 4000 {
			if states(pool) == want {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		t.Fatalf("states %s, want %s", states(pool), want)
	}
	waitForState("healthy healthy")
	var before uint64
	got := steadily(t.Context(), rate, requests, workers, func(i int) {
		switch i {
		case requests / 4:
			a.kill()
		case requests / 2:
			a = startBackend(t, a.addr)
		case requests * 3 / 4:
			waitForState("healthy healthy")
			before = requestsOfA()
		}
		status, text, err := ask(i)
		if want := map[bool]string{true: "500 bytes", false: "0 bytes"}[i%3 == 0]; err != nil || status != 200 || text != want {
			t.Errorf("request %d: %d %q, %v", i, status, text, err)
		}
	})
	t.Logf("%.0f requests/s, %d attempts for %d", got, attempts.Load(), events.Load())
	if after := requestsOfA(); after < before+requests/20 {
		t.Errorf("the backend that came back got %d requests of the last %d", after-before, requests/4)
	}

	a.kill()
	b.kill()
	attempts.Store(0)
	events.Store(0)
	steadily(t.Context(), rate, requests, workers, func(i int) {
		if status, _, err := ask(i); err == nil && status < 500 {
			t.Errorf("request %d of a dead pair: %d", i, status)
		}
	})
	t.Logf("outage: %d attempts for %d requests", attempts.Load(), events.Load())
	if got, most := attempts.Load(), events.Load()*12/10; got > most {
		t.Errorf("%d attempts for %d requests, want %d at most", got, events.Load(), most)
	}
}
