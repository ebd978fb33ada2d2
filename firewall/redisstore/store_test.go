package redisstore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/palisade-go/palisade/firewall"
)

// startRedis runs a real server on a socket until the end of the test, and
// returns its address and how to stop it before.
func startRedis(t *testing.T) (socket string, stop func()) {
	t.Helper()
	program, err := exec.LookPath("redis-server")
	if err != nil {
		if os.Getenv("PALISADE_REQUIRE_ALL") != "" {
			t.Fatal("redis-server is not installed")
		}
		t.Skip("redis-server is not installed")
	}
	dir, err := os.MkdirTemp("", "redis") // short, as names of sockets have to be
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	cmd := exec.Command(program, "--port", "0", "--unixsocket", socket, "--save", "", "--dir", dir)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	t.Cleanup(stop)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			return socket, stop
		}
		if time.Now().After(deadline) {
			t.Fatal("redis-server does not start")
		}
	}
}

func newStore(t *testing.T, socket string) *Store {
	t.Helper()
	client := redis.NewClient(&redis.Options{Network: "unix", Addr: socket, ContextTimeoutEnabled: true, MaxRetries: -1})
	t.Cleanup(func() { client.Close() })
	s, err := New(Config{Client: client})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestTakeAndReturn(t *testing.T) {
	socket, _ := startRedis(t)
	s := newStore(t, socket)
	b := firewall.Bucket{Key: "k", Interval: time.Hour, Burst: 3}
	take := func(n int) firewall.Quota {
		t.Helper()
		q, err := s.Take(t.Context(), b, n)
		if err != nil {
			t.Fatal(err)
		}
		return q
	}
	if q := take(0); q.Remaining != 3 || q.Wait != 0 || q.Limit != 3 || q.Reset != 0 {
		t.Errorf("at first: %+v", q)
	}
	for i := range 3 {
		if q := take(1); q.Remaining != 2-i || q.Wait != 0 {
			t.Errorf("token %d: %+v", i, q)
		}
	}
	if q := take(1); q.Wait < 59*time.Minute || q.Wait > time.Hour || q.Remaining != 0 || q.Reset < 179*time.Minute || q.Reset > 3*time.Hour {
		t.Errorf("a fourth: %+v", q)
	}
	if q := take(0); q.Wait < 59*time.Minute {
		t.Errorf("a look: %+v", q)
	}
	if err := s.Return(t.Context(), b, 2); err != nil {
		t.Fatal(err)
	}
	if q := take(3); q.Wait == 0 {
		t.Errorf("three of two: %+v", q)
	}
	if q := take(2); q.Wait != 0 || q.Remaining != 0 {
		t.Errorf("two that were given back: %+v", q)
	}
	if err := s.Return(t.Context(), b, 3); err != nil {
		t.Fatal(err)
	}
	if q := take(0); q.Remaining != 3 || q.Reset != 0 {
		t.Errorf("all given back: %+v", q)
	}
	if err := s.Return(t.Context(), firewall.Bucket{Key: "unknown", Interval: time.Second, Burst: 1}, 1); err != nil {
		t.Error(err)
	}
	ttl, err := s.client.(*redis.Client).PTTL(t.Context(), "palisade:k").Result()
	if err != nil || ttl > 0 {
		t.Errorf("a full bucket is kept for %v, %v", ttl, err)
	}
}

// TestAgainstRate takes tokens as fast as it can, and then knows from the clock
// how many there can have been. They come so slowly that a busy machine too can
// take them all, and would have to stop for a second before one is lost.
func TestAgainstRate(t *testing.T) {
	socket, _ := startRedis(t)
	s := newStore(t, socket)
	b := firewall.Bucket{Key: "k", Interval: time.Second / 20, Burst: 20}
	start := time.Now()
	if _, err := s.Take(t.Context(), b, 1); err != nil { // which has to connect first
		t.Fatal(err)
	}
	filled := time.Now()
	admitted := 1
	for time.Since(filled) < 2*time.Second {
		q, err := s.Take(t.Context(), b, 1)
		if err != nil {
			t.Fatal(err)
		}
		if q.Wait == 0 {
			admitted++
		} else if q.Wait > b.Interval+time.Microsecond {
			t.Fatalf("wait %v for a token each %v", q.Wait, b.Interval)
		}
	}
	most, least := 20+20*time.Since(start).Seconds(), 20+20*time.Since(filled).Seconds()
	if float64(admitted) > most+1 || float64(admitted) < least*0.9 {
		t.Errorf("admitted %d, due %.0f to %.0f", admitted, least, most)
	}
}

func TestErrors(t *testing.T) {
	if s, err := New(Config{Prefix: "{x}"}); s != nil || err == nil || !strings.Contains(err.Error(), "Client") || !strings.Contains(err.Error(), "braces") {
		t.Errorf("error %v", err)
	}
	socket, stop := startRedis(t)
	s := newStore(t, socket)
	b := firewall.Bucket{Key: "k", Interval: time.Second, Burst: 1}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Take(gone, b, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: %v", err)
	}
	stop()
	if _, err := s.Take(t.Context(), b, 1); err == nil || !strings.HasPrefix(err.Error(), "redisstore: ") {
		t.Errorf("without a server: %v", err)
	}
	if err := s.Return(t.Context(), b, 1); err == nil {
		t.Error("returned to nobody")
	}
}

// serving is what makes a run of this test program one of the processes of
// TestThreeProcesses. It serves on what is told, until its input ends.
const serving = "REDISSTORE_TEST_SOCKET"

// shared is the rate of the limit that the processes share, and sharedBurst its burst.
const shared, sharedBurst = 25, 50

func TestServe(t *testing.T) {
	socket := os.Getenv(serving)
	if socket == "" {
		return // not one of the processes
	}
	fw, err := firewall.New(firewall.Config{
		Store: newStore(t, socket), StoreProcesses: 3, StoreTimeout: 2 * time.Second, Logger: slog.New(slog.DiscardHandler),
		Policy: firewall.Policy{Default: firewall.Accept, Limits: []firewall.Limit{{ID: "l", Rate: shared, Burst: sharedBurst, Shared: true}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(fw.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})))
	defer server.Close()
	fmt.Fprintf(os.Stderr, "serving %s\n", server.URL)
	_, _ = io.Copy(io.Discard, os.Stdin)
}

// TestThreeProcesses has one client that sends all it can to three processes with
// one limit, and counts what they let through together: with Redis, and when it
// has died. The limit is low enough for a busy machine to ask for several times
// as much.
func TestThreeProcesses(t *testing.T) {
	socket, stop := startRedis(t)
	var urls []string
	for range 3 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestServe$")
		cmd.Env = append(os.Environ(), serving+"="+socket)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			in.Close()
			_, _ = io.Copy(io.Discard, out)
			_ = cmd.Wait()
		})
		line, err := bufio.NewReader(out).ReadString('\n')
		url, ok := strings.CutPrefix(strings.TrimSpace(line), "serving ")
		if err != nil || !ok {
			t.Fatalf("%q, %v", line, err)
		}
		urls = append(urls, url)
	}
	admit := func(d time.Duration) (int, float64) {
		var mu sync.Mutex
		admitted, refused := 0, 0
		var wg sync.WaitGroup
		start := time.Now()
		for i := range 6 {
			wg.Go(func() {
				transport := new(http.Transport)
				defer transport.CloseIdleConnections()
				client := &http.Client{Transport: transport}
				for time.Since(start) < d {
					res, err := client.Get(urls[i%3])
					if err != nil {
						t.Error(err)
						return
					}
					res.Body.Close()
					mu.Lock()
					if res.StatusCode == http.StatusOK {
						admitted++
					} else {
						refused++
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		if refused < 20 {
			t.Errorf("only %d were refused: the test asks too little", refused)
		}
		return admitted, shared * time.Since(start).Seconds()
	}
	got, due := admit(3 * time.Second)
	due += sharedBurst
	t.Logf("%d admitted by three processes, %.0f due: %+.2f %%", got, due, 100*(float64(got)/due-1))
	if float64(got) > 1.05*due || float64(got) < 0.9*due {
		t.Errorf("%d admitted, %.0f due", got, due)
	}
	stop()
	// Each process still waits for its first answer, and has what is left of its
	// third of the burst.
	got, due = admit(3 * time.Second)
	t.Logf("%d admitted without Redis, %.0f due", got, due)
	if float64(got) > 1.05*(due+sharedBurst) {
		t.Errorf("%d admitted without Redis, %.0f due and %d at once", got, due, sharedBurst)
	}
	if float64(got) < 0.5*due {
		t.Errorf("only %d admitted without Redis, %.0f due", got, due)
	}
}

func ExampleNew() {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:6379", ContextTimeoutEnabled: true})
	defer client.Close()
	store, err := New(Config{Client: client})
	if err != nil {
		fmt.Println(err)
		return
	}
	fw, err := firewall.New(firewall.Config{
		Store:          store,
		StoreProcesses: 3,
		Policy: firewall.Policy{
			Limits:  []firewall.Limit{{ID: "per-client", Rate: 10, Burst: 30, Shared: true}},
			Default: firewall.Accept,
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(strconv.Quote(fw.Counters().Limits[0].ID), "is kept in Redis")
	// Output: "per-client" is kept in Redis
}
