package lb

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// stateLog notes the states of the only connection of a test.
type stateLog struct {
	mu     sync.Mutex
	states []http.ConnState
}

func (l *stateLog) add(_ net.Conn, s http.ConnState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.states = append(l.states, s)
}

func (l *stateLog) is(want ...http.ConnState) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Equal(l.states, want)
}

// TestServersTunnel: a handler takes the connection of a CONNECT, itself, with all
// that the client has sent behind the head, however long the head.
func TestServersTunnel(t *testing.T) {
	type key struct{}
	for name, sizes := range map[string][2]int{"at once": {10, 10}, "nothing early": {10, 0}, "much early": {10, 50_000}, "a large head": {17_000, 40_000}} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			matrix(t, func(t *testing.T, m mode) {
				var states stateLog
				s := m.serve(t, frontConf{
					connState:   states.add,
					connContext: func(ctx context.Context, _ net.Conn) context.Context { return context.WithValue(ctx, key{}, "v") },
					handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if r.Method != http.MethodConnect {
							io.WriteString(w, "hello")
							return
						}
						_, hasServer := r.Context().Value(http.ServerContextKey).(*http.Server)
						_, hasAddr := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
						if r.Host != "far:1" || r.URL.Host != "far:1" || r.RequestURI != "far:1" || (r.TLS != nil) != m.tls || r.RemoteAddr == "" ||
							r.Context().Value(key{}) != "v" || r.Context().Err() != nil || !hasServer || !hasAddr {
							t.Errorf("the handler got %+v", r)
						}
						nc, rw, err := w.(http.Hijacker).Hijack()
						if err != nil {
							t.Error(err)
							return
						}
						defer nc.Close()
						switch nc.(type) {
						case *tls.Conn:
							if !m.tls {
								t.Errorf("the connection is %T", nc)
							}
						case *net.TCPConn:
							if m.tls {
								t.Errorf("the connection is %T", nc)
							}
						default:
							t.Errorf("the connection is %T", nc)
						}
						fmt.Fprint(rw, "HTTP/1.1 200 OK\r\n\r\n")
						rw.Flush()
						// What is buffered is said to be; then the connection alone will do.
						rest := int64(sizes[1]+len("later")) - int64(rw.Reader.Buffered())
						io.CopyN(nc, rw, int64(rw.Reader.Buffered()))
						io.CopyN(nc, rw, rest)
					}),
				})
				c := s.dial()
				early := strings.Repeat("e", sizes[1])
				send := getRoot + "CONNECT far:1 HTTP/1.1\nHost: far:1\nX: " + strings.Repeat("x", sizes[0]) + "\n\n" + early
				go io.WriteString(c, strings.ReplaceAll(send, "\n", "\r\n"))
				if res, body := c.response("GET"); res.StatusCode != 200 || body != "hello" {
					t.Fatalf("before: %v, %q", res, body)
				}
				if res, err := http.ReadResponse(c.r, &http.Request{Method: "CONNECT"}); err != nil || res.StatusCode != 200 {
					t.Fatal(res, err)
				}
				got := make([]byte, len(early))
				if _, err := io.ReadFull(c.r, got); err != nil || string(got) != early {
					t.Fatalf("%d early bytes came back: %v", len(got), err)
				}
				c.send("later")
				if got, err := io.ReadAll(c.r); err != nil || string(got) != "later" {
					t.Errorf("then %q, %v", got, err)
				}
				eventually(t, "new, active, idle, active, hijacked", func() bool {
					return states.is(http.StateNew, http.StateActive, http.StateIdle, http.StateActive, http.StateHijacked) ||
						states.is(http.StateNew, http.StateActive, http.StateHijacked) // no wait between the two
				})
				c.Close()
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				defer cancel()
				if err := s.front.Shutdown(ctx); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestServersTunnelRefused: a handler that does not take the connection answers.
func TestServersTunnelRefused(t *testing.T) {
	matrix(t, func(t *testing.T, m mode) {
		s := m.serve(t, frontConf{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X", "y")
			http.Error(w, r.Host, http.StatusForbidden)
			http.NewResponseController(w).Flush()
		})})
		c := s.dial()
		c.send("CONNECT far:1 HTTP/1.1\nHost: far:1\n\n")
		if res, body := c.response("CONNECT"); res.StatusCode != 403 || body != "far:1\n" || res.Header.Get("X") != "y" {
			t.Errorf("%v, %q", res, body)
		}
	})
}

// TestHandedOverOnce: whoever begins with a CONNECT or sends a head that is too
// large gets nothing else served on the connection, as net/http parses less
// strictly; and the connection is not counted any more.
func TestHandedOverOnce(t *testing.T) {
	var states stateLog
	var mu sync.Mutex
	var seen []string
	rig := startServer(t, &Server{
		MaxHeaderBytes: 8 << 10, MaxConns: 1, ConnState: states.add,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, r.Method+" "+r.URL.Path)
		}),
	})
	for _, first := range []struct {
		head   string
		status int
	}{
		{"CONNECT h:1 HTTP/1.1\nHost: h:1\n\n", 200},
		{"CONNECT /path HTTP/1.1\nHost: h\n\n", 200},
		{"CONNECT h:1 HTTP/1.1\nHost: h:1\nContent-Length: 1\nTransfer-Encoding: chunked\n\n", 400}, // by our parser
		{"GET /large HTTP/1.1\nHost: h\nX: " + strings.Repeat("x", 8<<10) + "\n\n", 431},
		{"GET /larger HTTP/1.1\nHost: h\nX: " + strings.Repeat("x", 100<<10) + "\n\n", 431},
		{"GET /many HTTP/1.1\nHost: h\n" + strings.Repeat("X:\n", 1500) + "\n", 431},
	} {
		t.Run(first.head[:13], func(t *testing.T) {
			mu.Lock()
			seen = nil
			mu.Unlock()
			states.mu.Lock()
			states.states = nil
			states.mu.Unlock()
			c := rig.dial(t) // while there is place for one
			c.send(first.head + "GET /lax HTTP/1.1\nHost: h\nX : y\n\n" + getRoot)
			res, err := http.ReadResponse(c.Reader, &http.Request{Method: "GET"})
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, res.Body)
			if res.StatusCode != first.status || !res.Close {
				t.Errorf("status %d, close %v; want %d and the end", res.StatusCode, res.Close, first.status)
			}
			if n, _ := io.Copy(io.Discard, c.Reader); n > 0 {
				t.Errorf("%d bytes more", n)
			}
			eventually(t, "new, active, closed", func() bool {
				return states.is(http.StateNew, http.StateActive, http.StateClosed)
			})
			mu.Lock()
			defer mu.Unlock()
			for _, r := range seen {
				if !strings.HasPrefix(r, "CONNECT ") {
					t.Errorf("served: %q", r)
				}
			}
			if (first.status == 200) != (len(seen) == 1) {
				t.Errorf("status %d, served %q", first.status, seen)
			}
		})
	}
}

// TestShutdownOfTunnels: a CONNECT that is being answered is waited for.
func TestShutdownOfTunnels(t *testing.T) {
	begun, end := make(chan struct{}), make(chan struct{})
	s := &Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(begun)
		<-end
	})}
	rig := startServer(t, s)
	c := rig.dial(t)
	c.send("CONNECT h:1 HTTP/1.1\nHost: h:1\n\n")
	<-begun
	over := make(chan error, 1)
	go func() { over <- s.Shutdown(t.Context()) }()
	eventually(t, "the listener is closed", func() bool {
		nc, err := net.Dial("tcp", rig.addr)
		if err == nil {
			nc.Close()
		}
		return err != nil
	})
	select {
	case err := <-over:
		t.Fatalf("Shutdown has not waited: %v", err)
	default:
	}
	close(end)
	if res, err := http.ReadResponse(c.Reader, nil); err != nil || res.StatusCode != 200 {
		t.Error(res, err)
	}
	if err := <-over; err != nil {
		t.Error(err)
	}
}
