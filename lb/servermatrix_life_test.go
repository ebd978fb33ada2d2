package lb

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const (
	getRoot  = "GET / HTTP/1.1\nHost: h\n\n"
	postFive = "POST / HTTP/1.1\nHost: h\nContent-Length: 5\n\n"
)

// inTime runs a test in a bubble of time, without TLS: certificates know the
// time outside.
func inTime(t *testing.T, f func(*testing.T, mode)) {
	for _, m := range matrixModes {
		if !m.tls {
			t.Run(m.name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { f(t, m) }) })
		}
	}
}

// endsAfter wants the connection to end, with or without a last response, after
// a time.
func (c *conn) endsAfter(begin time.Time, want time.Duration) {
	c.t.Helper()
	c.SetDeadline(time.Now().Add(time.Hour))
	if _, err := io.Copy(io.Discard, c.r); err != nil {
		c.t.Fatal(err)
	}
	if took := time.Since(begin); took < want || took > want+time.Second {
		c.t.Errorf("the connection ends after %v, want %v", took, want)
	}
}

func TestServersHeaderTimeout(t *testing.T) {
	inTime(t, func(t *testing.T, m mode) {
		s := m.serve(t, frontConf{inMemory: true, handler: http.HandlerFunc(hello), readHeader: 3 * time.Second})
		begin := time.Now()
		s.dial().endsAfter(begin, 3*time.Second) // nothing at all
		c, begin := s.dial(), time.Now()
		c.send("GET / HTTP/1.1\nHost")
		time.Sleep(2 * time.Second)
		c.send(": h\n") // a little at a time does not help
		c.endsAfter(begin, 3*time.Second)

		c = s.dial()
		c.send(getRoot)
		c.response("GET")
		time.Sleep(10 * time.Second) // idling is something else
		c.send("GET /")              // net/http takes less than four bytes for idling
		begin = time.Now()
		c.endsAfter(begin, 3*time.Second)
	})
}

func TestServersIdleTimeout(t *testing.T) {
	inTime(t, func(t *testing.T, m mode) {
		s := m.serve(t, frontConf{inMemory: true, handler: http.HandlerFunc(hello), idle: 7 * time.Second})
		c := s.dial()
		for range 3 {
			c.send(getRoot)
			c.response("GET")
			time.Sleep(6 * time.Second)
		}
		c.send(getRoot)
		c.response("GET")
		c.endsAfter(time.Now(), 7*time.Second)
	})
}

func TestServersReadTimeout(t *testing.T) {
	inTime(t, func(t *testing.T, m mode) {
		failed := make(chan error, 1)
		s := m.serve(t, frontConf{inMemory: true, read: 4 * time.Second, handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, err := io.ReadAll(r.Body)
			failed <- err
		})})
		c, begin := s.dial(), time.Now()
		c.send(postFive + "abc")
		if err, ok := (<-failed).(net.Error); !ok || !err.Timeout() {
			t.Errorf("the body ends with %v, want a timeout", err)
		}
		c.endsAfter(begin, 4*time.Second)
	})
}

func TestServersWriteTimeout(t *testing.T) {
	inTime(t, func(t *testing.T, m mode) {
		failed := make(chan error, 1)
		s := m.serve(t, frontConf{inMemory: true, write: 5 * time.Second, handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(make([]byte, 100_000)); err != nil {
					failed <- err
					return
				}
			}
		})})
		begin := time.Now()
		s.dial().send(getRoot) // and does not read
		err := <-failed
		if e, ok := err.(net.Error); !ok || !e.Timeout() {
			t.Errorf("Write fails with %v, want a timeout", err)
		}
		if took := time.Since(begin); took < 5*time.Second || took > 6*time.Second {
			t.Errorf("after %v", took)
		}
	})
}

func TestServersHandlerSetsDeadlines(t *testing.T) {
	inTime(t, func(t *testing.T, m mode) {
		s := m.serve(t, frontConf{inMemory: true, read: time.Second, handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(w)
			if err := rc.SetReadDeadline(time.Now().Add(time.Minute)); err != nil { // longer than the server's
				t.Error(err)
			}
			b, err := io.ReadAll(r.Body)
			rc.SetWriteDeadline(time.Now().Add(time.Minute))
			fmt.Fprintf(w, "%s %v", b, err)
		})})
		c := s.dial()
		for range 2 {
			c.SetDeadline(time.Now().Add(time.Hour))
			c.send(postFive + "abc")
			time.Sleep(30 * time.Second)
			c.send("de")
			if _, body := c.response("POST"); body != "abcde <nil>" {
				t.Errorf("%q", body)
			}
		}
		c.send(postFive + "abc")
		time.Sleep(2 * time.Minute)
		if _, body := c.response("POST"); !strings.Contains(body, "timeout") {
			t.Errorf("%q, want a timeout", body)
		}
	})
}

// TestServersContextEnds: with the client, and with the handler.
func TestServersContextEnds(t *testing.T) {
	matrix(t, func(t *testing.T, m mode) {
		begun, ended := make(chan context.Context), make(chan struct{})
		s := m.serve(t, frontConf{handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			begun <- r.Context()
			if r.URL.Path == "/wait" {
				<-r.Context().Done()
				ended <- struct{}{}
			}
		})})
		for _, send := range []string{"GET /wait HTTP/1.1\nHost: h\n\n", "POST /wait HTTP/1.1\nHost: h\nContent-Length: 1\n\nx"} {
			c := s.dial()
			c.send(send)
			<-begun
			c.Close()
			<-ended
		}
		c := s.dial()
		c.send(getRoot)
		ctx := <-begun
		c.response("GET")
		<-ctx.Done()
		if err := ctx.Err(); err != context.Canceled {
			t.Error(err)
		}
	})
}

func TestServersConnStates(t *testing.T) {
	matrix(t, func(t *testing.T, m mode) {
		var mu sync.Mutex
		states := make(map[string][]string)
		s := m.serve(t, frontConf{
			handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/hijack" {
					nc, _, err := w.(http.Hijacker).Hijack()
					if err != nil {
						t.Error(err)
						return
					}
					nc.Close()
				}
			}),
			connState: func(nc net.Conn, state http.ConnState) {
				mu.Lock()
				defer mu.Unlock()
				k := nc.RemoteAddr().String()
				states[k] = append(states[k], state.String())
			},
		})
		for _, c := range []struct{ send, want string }{
			{getRoot + getRoot + "GET / HTTP/1.1\nHost: h\nConnection: close\n\n", "new active idle active idle active closed"},
			{"GET /hijack HTTP/1.1\nHost: h\n\n", "new active hijacked"},
			{"nonsense\n\n", "new active closed"},
		} {
			k := s.dial()
			k.send(c.send)
			io.Copy(io.Discard, k.r)
			var got string
			for end := time.Now().Add(10 * time.Second); got != c.want && time.Now().Before(end); time.Sleep(time.Millisecond) {
				mu.Lock()
				got = strings.Join(states[k.LocalAddr().String()], " ")
				mu.Unlock()
			}
			if got != c.want {
				t.Errorf("%q: %s, want %s", c.send, got, c.want)
			}
		}
	})
}

func TestServersShutdownDrains(t *testing.T) {
	matrix(t, func(t *testing.T, m mode) {
		begun, goOn := make(chan struct{}), make(chan struct{})
		s := m.serve(t, frontConf{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				close(begun)
				<-goOn
			}
			hello(w, r)
		})})
		idle, busy := s.dial(), s.dial()
		idle.send(getRoot)
		idle.response("GET")
		busy.send("GET /slow HTTP/1.1\nHost: h\n\n")
		<-begun
		called, down := make(chan struct{}), make(chan error, 1)
		s.front.RegisterOnShutdown(func() { close(called) })
		go func() { down <- s.front.Shutdown(t.Context()) }()
		<-called
		if err := <-s.ended; err != http.ErrServerClosed {
			t.Errorf("Serve returned %v", err)
		}
		s.ended <- http.ErrServerClosed
		if _, err := idle.r.ReadByte(); err != io.EOF {
			t.Errorf("an idle connection: %v, want its end", err)
		}
		if nc, err := net.Dial("tcp", s.addr); err == nil {
			nc.Close()
			t.Error("a new connection was accepted")
		}
		select {
		case err := <-down:
			t.Errorf("Shutdown returned %v while a request was served", err)
		default:
		}
		close(goOn)
		if res, body := busy.response("GET"); body != "hello" || !res.Close {
			t.Errorf("%q, close %v; want hello and the end", body, res.Close)
		}
		if err := <-down; err != nil {
			t.Error(err)
		}
	})
}

func TestServersShutdownGivesUp(t *testing.T) {
	matrix(t, func(t *testing.T, m mode) {
		begun, ended := make(chan struct{}), make(chan struct{})
		s := m.serve(t, frontConf{handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			close(begun)
			<-r.Context().Done()
			close(ended)
		})})
		c := s.dial()
		c.send(getRoot)
		<-begun
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.front.Shutdown(ctx); err != context.Canceled {
			t.Errorf("Shutdown: %v, want %v", err, context.Canceled)
		}
		if err := s.front.Close(); err != nil {
			t.Error(err)
		}
		<-ended
		if _, err := c.r.ReadByte(); err == nil {
			t.Error("the connection lives")
		}
	})
}

// TestShutdownOfHeads: who has sent a part of a head has a second for the rest, and
// is not told to wait for; a body is something else.
func TestShutdownOfHeads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := matrixModes[2].serve(t, frontConf{inMemory: true, readHeader: -1, handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(w, r.Body)
		})})
		var never []*conn
		for _, before := range []string{"", getRoot} {
			c := s.dial()
			if before != "" {
				c.send(before)
				c.response("GET")
			}
			c.send("GET / HTTP/1.1\nHost")
			never = append(never, c)
		}
		soon, body := s.dial(), s.dial()
		soon.send("GET / HTTP/1.1\nHost")
		body.send(postFive + "abc")
		time.Sleep(time.Minute)
		silent := s.dial()
		synctest.Wait()

		begin, down := time.Now(), make(chan error, 1)
		go func() { down <- s.front.Shutdown(t.Context()) }()
		time.Sleep(900 * time.Millisecond)
		soon.SetDeadline(time.Now().Add(time.Minute))
		soon.send(": h\n\n")
		if res, _ := soon.response("GET"); res.StatusCode != 200 || !res.Close {
			t.Errorf("a head whose rest came in time: %v, close %v", res.Status, res.Close)
		}
		for _, c := range never {
			c.endsAfter(begin, time.Second)
		}
		silent.endsAfter(begin, 5*time.Second)
		time.Sleep(time.Minute)
		select {
		case err := <-down:
			t.Errorf("Shutdown returned %v while a body came", err)
		default:
		}
		body.SetDeadline(time.Now().Add(time.Minute))
		body.send("de")
		if res, got := body.response("POST"); got != "abcde" || !res.Close {
			t.Errorf("%q, close %v", got, res.Close)
		}
		if err := <-down; err != nil {
			t.Error(err)
		}
	})
}

// TestShutdownOfHeadsOverTLS: a client that holds a head back does not hold the end
// up for as long as it might.
func TestShutdownOfHeadsOverTLS(t *testing.T) {
	s := matrixModes[3].serve(t, frontConf{handler: http.HandlerFunc(hello), readHeader: -1})
	for _, before := range []string{"", getRoot} {
		c := s.dial()
		if before != "" {
			c.send(before)
			c.response("GET")
		}
		c.send("GET / HTTP/1.1\nHost")
		defer func() {
			if n, err := io.Copy(io.Discard, c.r); n > 0 || err != nil {
				t.Errorf("%d bytes, then %v; want the end", n, err)
			}
		}()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := s.front.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

func TestServersContextsOfCallers(t *testing.T) {
	type key string
	matrix(t, func(t *testing.T, m mode) {
		var conns atomic.Int32
		s := m.serve(t, frontConf{
			baseContext: func(net.Listener) context.Context { return context.WithValue(context.Background(), key("base"), "b") },
			connContext: func(ctx context.Context, _ net.Conn) context.Context {
				return context.WithValue(ctx, key("conn"), conns.Add(1))
			},
			handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprint(w, r.Context().Value(key("base")), r.Context().Value(key("conn")))
			}),
		})
		for i := range 2 {
			c := s.dial()
			for range 2 {
				c.send(getRoot)
				if _, body := c.response("GET"); body != fmt.Sprint("b", int32(i+1)) {
					t.Errorf("connection %d: %q", i, body)
				}
			}
		}
	})
}

// TestServersKeepsRequestsApart: many clients at once, each with bodies of its
// own, pipelined.
func TestServersKeepsRequestsApart(t *testing.T) {
	matrix(t, func(t *testing.T, m mode) {
		var mu sync.Mutex
		var kept []*http.Request
		s := m.serve(t, frontConf{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(w, r.Body)
			mu.Lock()
			kept = append(kept, r)
			mu.Unlock()
		})})
		var wg sync.WaitGroup
		for i := range 8 {
			c := s.dial()
			wg.Go(func() {
				for k := range 20 {
					nonce := fmt.Sprintf("%d-%d", i, k)
					fmt.Fprintf(c, "POST /%s HTTP/1.1\r\nHost: h\r\nX: %s\r\nContent-Length: %d\r\n\r\n%s", nonce, nonce, len(nonce), nonce)
				}
				for k := range 20 {
					res, err := http.ReadResponse(c.r, nil)
					if err != nil {
						t.Error(err)
						return
					}
					if body, err := io.ReadAll(res.Body); err != nil || string(body) != fmt.Sprintf("%d-%d", i, k) {
						t.Errorf("%q, %v; want that of %d-%d", body, err, i, k)
						return
					}
				}
			})
		}
		wg.Wait()
		var nonces []string
		for _, r := range kept { // nothing of a request is used again
			if "/"+r.Header.Get("X") != r.URL.Path {
				t.Errorf("%q has the header of %q", r.URL.Path, r.Header.Get("X"))
			}
			nonces = append(nonces, r.URL.Path)
		}
		slices.Sort(nonces)
		if n := len(slices.Compact(nonces)); n != 160 {
			t.Errorf("%d requests, want 160", n)
		}
	})
}
