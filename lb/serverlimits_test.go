package lb

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palisade-go/palisade/internal/memnet"
)

// inBubble runs a server on a network in memory, in which time passes only when
// everybody waits. It ends the server.
func inBubble(t *testing.T, s *Server, f func(t *testing.T, ln *memnet.Listener)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ln := memnet.Listen("192.0.2.1:80")
		s.ErrorLog = slog.New(slog.DiscardHandler)
		ended := make(chan error, 1)
		go func() { ended <- s.Serve(ln) }()
		f(t, ln)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != http.ErrServerClosed {
			t.Errorf("Serve returned %v", err)
		}
	})
}

func memDial(t *testing.T, ln *memnet.Listener, from string) *rawConn {
	t.Helper()
	c, err := ln.DialFrom(t.Context(), netip.MustParseAddrPort(from))
	if err != nil {
		t.Fatal(err)
	}
	return &rawConn{c, bufio.NewReader(c), t}
}

var sayOK = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		http.Error(w, err.Error(), http.StatusRequestTimeout)
		return
	}
	io.WriteString(w, "ok")
})

// TestServerTimeouts: a client that is slow in any way is rid of on time.
func TestServerTimeouts(t *testing.T) {
	const head = "POST / HTTP/1.1\nHost: h\nContent-Length: 100000\n\n"
	for _, c := range []struct {
		name  string
		conf  *Server
		send  string
		drip  time.Duration // between further bytes of a body
		after time.Duration // the end
		want  string        // the beginning of what comes before it
	}{
		{"nothing", &Server{}, "", 0, 10 * time.Second, ""},
		{"half a head", &Server{}, "GET / HT", 0, 10 * time.Second, "HTTP/1.1 408"},
		{"own header timeout", &Server{ReadHeaderTimeout: time.Second}, "GET / HT", 0, time.Second, "HTTP/1.1 408"},
		{"idle", &Server{}, "GET / HTTP/1.1\nHost: h\n\n", 0, 2 * time.Minute, "HTTP/1.1 200"},
		{"own idle timeout", &Server{IdleTimeout: time.Hour}, "GET / HTTP/1.1\nHost: h\n\n", 0, time.Hour, "HTTP/1.1 200"},
		{"body", &Server{ReadTimeout: 30 * time.Second}, head, time.Second, 30 * time.Second, "HTTP/1.1 408"},
		{"slow body", &Server{MinBodyRate: 10}, head, time.Second, 5*time.Second + 500*time.Millisecond, "HTTP/1.1 408"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.conf.Handler = sayOK
			inBubble(t, c.conf, func(t *testing.T, ln *memnet.Listener) {
				conn, begin := memDial(t, ln, "198.51.100.1:1"), time.Now()
				defer conn.Close()
				conn.send(c.send)
				var dripping sync.WaitGroup
				if c.drip > 0 {
					dripping.Go(func() {
						for err := error(nil); err == nil; _, err = conn.Conn.Write([]byte("x")) {
							time.Sleep(c.drip)
						}
					})
				}
				got, _ := io.ReadAll(conn.Reader)
				// Lingering for a client that goes on sending takes a moment more.
				if took := time.Since(begin); took < c.after || took > c.after+time.Second+lingerFor || !strings.HasPrefix(string(got), c.want) {
					t.Errorf("%q after %v, want %q after %v", got, took, c.want, c.after)
				}
				conn.Close()
				dripping.Wait()
			})
		})
	}
}

// TestServerBusyConnOutlivesIdleTimeout: the deadline in the connection, which is
// seldom moved, ends no request and no connection early.
func TestServerBusyConnOutlivesIdleTimeout(t *testing.T) {
	slow := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(time.Minute):
			fmt.Fprint(w, r.Context().Err())
		case <-r.Context().Done():
		}
	})
	inBubble(t, &Server{Handler: slow, IdleTimeout: 10 * time.Second}, func(t *testing.T, ln *memnet.Listener) {
		conn := memDial(t, ln, "198.51.100.1:1")
		for range 5 {
			time.Sleep(9 * time.Second)
			conn.send("GET / HTTP/1.1\nHost: h\n\n")
			if _, body := conn.receive("GET"); body != "<nil>" {
				t.Fatalf("body %q", body)
			}
		}
		begin := time.Now()
		conn.closed()
		if took := time.Since(begin); took != 10*time.Second {
			t.Errorf("closed after %v, want 10s", took)
		}
	})
}

// TestServerMaxConns: the third connection waits until one of two has ended.
func TestServerMaxConns(t *testing.T) {
	inBubble(t, &Server{Handler: sayOK, MaxConns: 2}, func(t *testing.T, ln *memnet.Listener) {
		var conns []*rawConn
		for range 3 {
			c := memDial(t, ln, "198.51.100.1:1")
			c.send("GET / HTTP/1.1\nHost: h\n\n")
			conns = append(conns, c)
		}
		conns[0].receive("GET")
		conns[1].receive("GET")
		synctest.Wait()
		conns[2].SetReadDeadline(time.Now().Add(time.Second))
		if _, err := conns[2].Reader.Peek(1); err == nil {
			t.Error("a third connection is served")
		}
		conns[2].Reader.Reset(conns[2].Conn)
		conns[2].SetReadDeadline(time.Time{})
		conns[0].Close()
		conns[2].receive("GET")
	})
}

func TestServerMaxConnsPerClient(t *testing.T) {
	inBubble(t, &Server{Handler: sayOK, MaxConnsPerClient: 1}, func(t *testing.T, ln *memnet.Listener) {
		first := memDial(t, ln, "[2001:db8::1]:1")
		first.send("GET / HTTP/1.1\nHost: h\n\n")
		first.receive("GET")
		memDial(t, ln, "[2001:db8::2]:1").closed() // of the same network
		other := memDial(t, ln, "[2001:db8:0:1::1]:1")
		other.send("GET / HTTP/1.1\nHost: h\n\n")
		other.receive("GET")
		first.Close()
		synctest.Wait()
		again := memDial(t, ln, "[2001:db8::2]:1")
		again.send("GET / HTTP/1.1\nHost: h\n\n")
		again.receive("GET")
	})
}

// TestServerShutdown: idle connections end at once, a request in flight is waited
// for, and its response says that it is the last.
func TestServerShutdown(t *testing.T) {
	release := make(chan struct{})
	synctest.Test(t, func(t *testing.T) {
		release = make(chan struct{})
		entered := make(chan struct{})
		s := &Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/slow" {
				close(entered)
				<-release
			}
		})}
		told := make(chan struct{})
		s.RegisterOnShutdown(func() { close(told) })
		ln := memnet.Listen("192.0.2.1:80")
		ended := make(chan error, 1)
		go func() { ended <- s.Serve(ln) }()
		idle, busy := memDial(t, ln, "198.51.100.1:1"), memDial(t, ln, "198.51.100.1:2")
		idle.send("GET / HTTP/1.1\nHost: h\n\n")
		idle.receive("GET")
		busy.send("GET /slow HTTP/1.1\nHost: h\n\n")
		<-entered
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown with a request in flight: %v", err)
		}
		<-told
		idle.closed()
		if err := <-ended; err != http.ErrServerClosed {
			t.Error(err)
		}
		down := make(chan error, 1)
		s.onShutdown = nil
		go func() { down <- s.Shutdown(context.Background()) }()
		synctest.Wait()
		close(release)
		if res, _ := busy.receive("GET"); !res.Close {
			t.Error("the last response does not say so")
		}
		if err := <-down; err != nil {
			t.Error(err)
		}
		if err := s.Serve(memnet.Listen("192.0.2.1:81")); err != http.ErrServerClosed {
			t.Errorf("Serve after Shutdown: %v", err)
		}
		if err := errors.Join(s.Close(), s.Close()); err != nil {
			t.Error(err)
		}
	})
}
