package http1

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palisade-go/palisade/internal/memnet"
)

// backend answers each connection with serve, given its number from 1.
func backend(t *testing.T, serve func(n int64, c net.Conn, r *bufio.Reader)) (url string, conns *atomic.Int64) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conns = new(atomic.Int64)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			n := conns.Add(1)
			c.SetDeadline(time.Now().Add(20 * time.Second))
			wg.Go(func() {
				defer c.Close()
				serve(n, c, bufio.NewReader(c))
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return "http://" + ln.Addr().String(), conns
}

func newClient(t *testing.T) *Client {
	c := New(Config{IdleConns: 4, IdleTimeout: time.Minute})
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// do sends a request and reads the whole response.
func do(t *testing.T, c *Client, method, url, body string) (int, string, error) {
	t.Helper()
	var src io.Reader
	if body != "" {
		src = strings.NewReader(body)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, src)
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.RoundTrip(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

const okay = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// answerAll answers every request.
func answerAll(c net.Conn, r *bufio.Reader) {
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		io.Copy(io.Discard, req.Body)
		io.WriteString(c, okay)
	}
}

// TestConnectionIsUsedAgain, and no goroutine waits at it meanwhile.
func TestConnectionIsUsedAgain(t *testing.T) {
	url, conns := backend(t, func(_ int64, c net.Conn, r *bufio.Reader) { answerAll(c, r) })
	c := newClient(t)
	do(t, c, "GET", url, "")
	before := runtime.NumGoroutine()
	for range 50 {
		if code, body, err := do(t, c, "GET", url, ""); code != 200 || body != "ok" || err != nil {
			t.Fatalf("%d %q, %v", code, body, err)
		}
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	if n := runtime.NumGoroutine(); n > before {
		t.Errorf("%d goroutines, %d before", n, before)
	}
	for range 100 {
		if code, body, err := do(t, c, "POST", url, "some body"); code != 200 || body != "ok" || err != nil {
			t.Fatalf("%d %q, %v", code, body, err)
		}
	}
	// The goroutine of a body may give its connection back a moment later.
	if n := conns.Load(); n > 5 {
		t.Errorf("%d connections after requests with a body", n)
	}
}

// TestStaleConnection: a connection that the backend has closed is replaced, for
// a request that must not be sent twice as well if the end can be seen.
func TestStaleConnection(t *testing.T) {
	for _, c := range []struct{ method, body string }{{"GET", ""}, {"POST", ""}, {"POST", "body"}, {"PATCH", "body"}} {
		closed := make(chan struct{}, 100)
		url, conns := backend(t, func(_ int64, c net.Conn, r *bufio.Reader) {
			if req, err := http.ReadRequest(r); err == nil {
				io.Copy(io.Discard, req.Body)
				io.WriteString(c, okay)
			}
			c.Close()
			closed <- struct{}{}
		})
		client := newClient(t)
		for range 20 {
			if code, body, err := do(t, client, c.method, url, c.body); code != 200 || body != "ok" || err != nil {
				t.Errorf("%s: %d %q, %v", c.method, code, body, err)
			}
			<-closed
			time.Sleep(5 * time.Millisecond) // for the loopback
		}
		if conns.Load() != 20 {
			t.Errorf("%s: %d connections", c.method, conns.Load())
		}
	}
}

// TestStaleConnectionFoundLate: the backend closes when the request comes. Only a
// request that may be sent twice is.
func TestStaleConnectionFoundLate(t *testing.T) {
	for _, c := range []struct {
		method, body string
		again        bool
	}{{"GET", "", true}, {"DELETE", "", true}, {"POST", "", false}, {"PUT", "body", false}} {
		url, conns := backend(t, func(n int64, c net.Conn, r *bufio.Reader) {
			http.ReadRequest(r)
			io.WriteString(c, okay)
			if n == 1 {
				r.Peek(1) // the next request; then the end
				return
			}
			answerAll(c, r)
		})
		client := newClient(t)
		do(t, client, "GET", url, "")
		code, _, err := do(t, client, c.method, url, c.body)
		if (err == nil) != c.again || c.again != (conns.Load() == 2) {
			t.Errorf("%s: %d, %v after %d connections", c.method, code, err, conns.Load())
		}
		if e, ok := errors.AsType[*Error](err); !c.again && (!ok || e.Phase != Sent) {
			t.Errorf("%s: %#v", c.method, err)
		}
	}
}

// TestUnsolicitedBytes: what a backend sends beyond its response answers nobody's
// request.
func TestUnsolicitedBytes(t *testing.T) {
	evil := "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	for _, late := range []bool{false, true} {
		sent := make(chan struct{}, 100)
		url, conns := backend(t, func(_ int64, c net.Conn, r *bufio.Reader) {
			http.ReadRequest(r)
			if late {
				io.WriteString(c, okay)
				time.Sleep(5 * time.Millisecond)
				io.WriteString(c, evil)
			} else {
				io.WriteString(c, okay+evil)
			}
			sent <- struct{}{}
			io.Copy(io.Discard, c)
		})
		client := newClient(t)
		for range 5 {
			if _, body, err := do(t, client, "GET", url, ""); body != "ok" || err != nil {
				t.Errorf("late %v: %q, %v", late, body, err)
			}
			<-sent
			time.Sleep(5 * time.Millisecond)
		}
		if conns.Load() != 5 {
			t.Errorf("late %v: %d connections for 5 requests", late, conns.Load())
		}
	}
}

// TestBytesBehindBody: bytes that came with the end of a large body, where no
// buffer shows them, are found although the connection is used again at once.
func TestBytesBehindBody(t *testing.T) {
	const size = 3*bufferSize + 17
	evil := "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	whole := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", size, strings.Repeat("x", size)) + evil
	url, conns := backend(t, func(_ int64, c net.Conn, r *bufio.Reader) {
		http.ReadRequest(r)
		io.WriteString(c, whole)
		io.Copy(io.Discard, c)
	})
	client := newClient(t)
	for range 5 {
		if _, body, err := do(t, client, "GET", url, ""); len(body) != size || err != nil {
			t.Fatalf("%d bytes, %v", len(body), err)
		}
	}
	if conns.Load() != 5 {
		t.Errorf("%d connections for 5 requests", conns.Load())
	}
}

// TestEarlyAnswer: a backend that answers before it has read the request, one that
// ends the connection instead, and one that takes its time, over a connection of
// the kernel's, whose answer is awaited before the request is written.
func TestEarlyAnswer(t *testing.T) {
	for _, c := range []struct {
		name  string
		serve func(c net.Conn, r *bufio.Reader)
		body  string
		err   error
	}{
		{"at once", func(c net.Conn, r *bufio.Reader) { io.WriteString(c, okay); r.Peek(1) }, "ok", nil},
		{"in parts", func(c net.Conn, r *bufio.Reader) {
			r.Peek(1)
			for _, b := range []byte(okay) {
				c.Write([]byte{b})
			}
		}, "ok", nil},
		{"slowly", func(c net.Conn, r *bufio.Reader) {
			r.Peek(1)
			time.Sleep(3 * watchAfter)
			io.WriteString(c, okay)
		}, "ok", nil},
		{"the end", func(c net.Conn, r *bufio.Reader) { http.ReadRequest(r) }, "", ErrClosed},
		{"a reset", func(c net.Conn, r *bufio.Reader) {
			http.ReadRequest(r)
			c.(*net.TCPConn).SetLinger(0)
		}, "", syscall.ECONNRESET},
	} {
		url, _ := backend(t, func(_ int64, conn net.Conn, r *bufio.Reader) { c.serve(conn, r) })
		_, body, err := do(t, newClient(t), "GET", url, "")
		if body != c.body || !errors.Is(err, c.err) {
			t.Errorf("%s: %q, %v; want %q, %v", c.name, body, err, c.body, c.err)
		}
	}
}

// TestHeadThatStops: a peer that does not read takes only a part of a head at once;
// the rest waits for it.
func TestHeadThatStops(t *testing.T) {
	url, _ := backend(t, func(_ int64, c net.Conn, r *bufio.Reader) {
		c.(*net.TCPConn).SetReadBuffer(4 << 10)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			time.Sleep(time.Millisecond)
			text := fmt.Sprint(len(req.Header.Get("Long")))
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(text), text)
		}
	})
	client := New(Config{IdleConns: 1, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			err = c.(*net.TCPConn).SetWriteBuffer(1) // the least there is
		}
		return c, err
	}})
	t.Cleanup(client.CloseIdleConnections)
	for _, n := range []int{bufferSize - 500, 40 * bufferSize, 10} {
		req, _ := http.NewRequestWithContext(t.Context(), "GET", url, nil)
		req.Header.Set("Long", strings.Repeat("x", n))
		res, err := client.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(res.Body); string(body) != fmt.Sprint(n) || err != nil {
			t.Errorf("%q, %v; want %d", body, err, n)
		}
	}
}

// endless is a body without end, until it is closed.
type endless struct{ closed atomic.Bool }

func (e *endless) Read(p []byte) (int, error) {
	if e.closed.Load() {
		return 0, errors.New("closed")
	}
	return len(p), nil
}

func (e *endless) Close() error { e.closed.Store(true); return nil }

// TestEarlyResponse: a response that comes while the body is being written, and
// is not read by the backend, arrives; the connection is not used again.
func TestEarlyResponse(t *testing.T) {
	url, conns := backend(t, func(_ int64, c net.Conn, r *bufio.Reader) {
		http.ReadRequest(r)
		io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
		r.ReadByte()
		time.Sleep(20 * time.Millisecond)
		io.Copy(io.Discard, r)
	})
	client := newClient(t)
	for range 3 {
		body := new(endless)
		req, _ := http.NewRequestWithContext(t.Context(), "POST", url, body)
		res, err := client.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(res.Body); res.StatusCode != 413 || string(b) != "no" || err != nil {
			t.Errorf("%d %q, %v", res.StatusCode, b, err)
		}
		for range 1000 {
			if body.closed.Load() {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		if !body.closed.Load() {
			t.Error("the body is still being sent")
		}
	}
	if conns.Load() != 3 {
		t.Errorf("%d connections", conns.Load())
	}
}

// failing is a body that breaks off.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
func (f failing) Close() error             { return nil }

func TestBodyThatFails(t *testing.T) {
	got := make(chan error, 1)
	url, _ := backend(t, func(_ int64, c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err == nil {
			_, err = io.ReadAll(req.Body)
		}
		got <- err
	})
	want := errors.New("broken")
	for _, length := range []int64{-1, 5} {
		req, _ := http.NewRequestWithContext(t.Context(), "POST", url, failing{want})
		req.ContentLength = length
		if _, err := newClient(t).RoundTrip(req); !errors.Is(err, want) {
			t.Errorf("length %d: %v, want the body's error", length, err)
		}
		if err := <-got; err == nil {
			t.Errorf("length %d: the backend sees a whole request", length)
		}
	}
	req, _ := http.NewRequestWithContext(t.Context(), "POST", url, io.NopCloser(strings.NewReader("abc")))
	req.ContentLength = 5
	if _, err := newClient(t).RoundTrip(req); err == nil {
		t.Error("a body that is too short was sent")
	}
	if err := <-got; err == nil {
		t.Error("the backend sees a whole request")
	}
}

// inMemory is a client in a bubble, with a backend that answers what it is told.
func inMemory(t *testing.T, conf Config, serve func(c net.Conn, r *bufio.Reader)) *Client {
	ln := memnet.Listen("192.0.2.1:80")
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { defer c.Close(); serve(c, bufio.NewReader(c)) })
		}
	})
	conf.Dial = ln.DialContext
	client := New(conf)
	t.Cleanup(func() { client.CloseIdleConnections(); ln.Close(); wg.Wait() })
	return client
}

// TestTimeAndContext: when a wait ends, and what the error says.
func TestTimeAndContext(t *testing.T) {
	canceled := errors.New("canceled for a reason")
	for _, c := range []struct {
		name         string
		limit        time.Duration
		cancel       time.Duration // 0 for never
		head, body   time.Duration // what the backend waits before each
		ends         time.Duration
		headErr, err error
	}{
		{"no head in time", time.Second, 0, time.Minute, 0, time.Second, ErrTimeout, nil},
		{"no head in a very short time", time.Millisecond, 0, time.Minute, 0, time.Millisecond, ErrTimeout, nil},
		{"a slow body", time.Second, 0, 900 * time.Millisecond, time.Hour, time.Hour + 900*time.Millisecond, nil, nil},
		{"canceled before the head", time.Minute, time.Second, time.Hour, 0, time.Second, canceled, nil},
		{"canceled at once", time.Minute, time.Millisecond, time.Hour, 0, watchAfter, canceled, nil},
		{"canceled in the body", time.Minute, time.Second, 0, time.Hour, time.Second, nil, canceled},
		{"no limit", 0, 0, time.Hour, time.Hour, 2 * time.Hour, nil, nil},
	} {
		synctest.Test(t, func(t *testing.T) {
			client := inMemory(t, Config{}, func(conn net.Conn, r *bufio.Reader) {
				http.ReadRequest(r)
				gone := make(chan struct{})
				go func() { r.ReadByte(); close(gone) }()
				for _, step := range []struct {
					wait time.Duration
					text string
				}{{c.head, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"}, {c.body, "ok"}} {
					select {
					case <-gone:
						return
					case <-time.After(step.wait):
						io.WriteString(conn, step.text)
					}
				}
			})
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			if c.cancel > 0 {
				time.AfterFunc(c.cancel, func() { cancel(canceled) })
			}
			start := time.Now()
			req, _ := http.NewRequest("GET", "http://h/", nil)
			res, err := client.Do(ctx, req, c.limit, nil)
			if !errors.Is(err, c.headErr) {
				t.Errorf("%s: %v, want %v", c.name, err, c.headErr)
			}
			if err == nil {
				if _, err = io.ReadAll(res.Body); !errors.Is(err, c.err) {
					t.Errorf("%s: body: %v, want %v", c.name, err, c.err)
				}
				res.Body.Close()
			}
			if d := time.Since(start); d != c.ends {
				t.Errorf("%s: ended after %v, want %v", c.name, d, c.ends)
			}
		})
	}
}

// TestIdleTimeout: connections are closed when their time is over, in whatever
// number, and those in use when the client is closed.
func TestIdleTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var open atomic.Int64
		client := inMemory(t, Config{IdleConns: 3, IdleTimeout: time.Minute}, func(c net.Conn, r *bufio.Reader) {
			open.Add(1)
			defer open.Add(-1)
			answerAll(c, r)
		})
		ask := func(n int) {
			var all []*http.Response
			for range n {
				req, _ := http.NewRequest("GET", "http://h/", nil)
				res, err := client.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, res)
			}
			for _, res := range all {
				io.Copy(io.Discard, res.Body)
			}
			synctest.Wait()
		}
		for _, step := range []struct {
			ask  int
			wait time.Duration
			want int64
		}{{5, 0, 3}, {1, 59 * time.Second, 3}, {1, 2 * time.Second, 1}, {1, 30 * time.Second, 1}, {0, 29 * time.Second, 1}, {0, 2 * time.Second, 0}, {2, 0, 2}} {
			ask(step.ask)
			time.Sleep(step.wait)
			synctest.Wait()
			if n := open.Load(); n != step.want {
				t.Errorf("%+v: %d connections are open", step, n)
			}
		}
		client.CloseIdleConnections()
		synctest.Wait()
		if n := open.Load(); n != 0 {
			t.Errorf("%d connections are open at the end", n)
		}
	})
}

func TestInvalidRequests(t *testing.T) {
	client := New(Config{Dial: func(context.Context, string, string) (net.Conn, error) {
		t.Error("dialed")
		return nil, errors.New("no")
	}})
	for name, change := range map[string]func(*http.Request){
		"method": func(r *http.Request) { r.Method = "G T" }, "host": func(r *http.Request) { r.Host = "a b" },
		"name": func(r *http.Request) { r.Header["Bad Name"] = []string{"x"} }, "value": func(r *http.Request) { r.Header["X"] = []string{"a\r\nb: c"} },
		"query": func(r *http.Request) { r.URL.RawQuery = "a b" }, "scheme": func(r *http.Request) { r.URL.Scheme = "ftp" }, "no host": func(r *http.Request) { r.URL.Host = "" },
	} {
		req, _ := http.NewRequest("GET", "http://h/", nil)
		change(req)
		_, err := client.RoundTrip(req)
		if e, ok := errors.AsType[*Error](err); !ok || e.Phase != Invalid {
			t.Errorf("%s: %v, want it refused", name, err)
		}
	}
}
