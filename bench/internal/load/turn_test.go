package load

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"time"
)

// here is this process.
type here struct{}

func (here) Tree() ([]int, error) { return []int{os.Getpid()}, nil }

func takeTurn(t *testing.T, l *Load) Cost {
	t.Helper()
	c, err := l.Turn(here{}, 60*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestTurns checks that a load works in its turns only, and that what it does in
// one has ended before the next.
func TestTurns(t *testing.T) {
	cert, roots := selfSigned(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var asked, opened atomic.Int64
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			w.Header().Set("Content-Length", "5")
			switch r.URL.Path {
			case "/4": // takes longer than a turn
				time.Sleep(150 * time.Millisecond)
				w.Header().Set("Content-Length", "4")
				w.Write(Body(4))
				return
			case "/5":
				w.Write(Body(5))
				return
			}
			io.WriteString(w, "hello")
		}),
		ConnState: func(_ net.Conn, s http.ConnState) {
			if s == http.StateNew {
				opened.Add(1)
			}
		},
	}
	go srv.Serve(tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{cert}}))
	defer srv.Close()
	conf := &tls.Config{ServerName: "bench.example", RootCAs: roots, MinVersion: tls.VersionTLS13}
	addr := ln.Addr().String()
	full := Handshakes{Addr: addr, Config: conf, Curve: tls.X25519, Conns: 3, Body: []byte("hello")}.InTurns()
	kept := Client{Addr: addr, Size: 5, Conns: 4}.TLSInTurns(conf)
	takeTurn(t, kept)
	takeTurn(t, full)
	for range 3 {
		before, conns, ops := asked.Load(), opened.Load(), full.Ops()
		c := takeTurn(t, full)
		n := asked.Load() - before
		if uint64(n) != full.Ops()-ops || opened.Load()-conns != n || c.Ops > float64(n) || c.CPU <= 0 || c.Elapsed < 0.04 {
			t.Errorf("%+v, and the server had %d requests over %d connections", c, n, opened.Load()-conns)
		}
		before, conns, ops = asked.Load(), opened.Load(), kept.Ops()
		c = takeTurn(t, kept)
		n = asked.Load() - before
		if uint64(n) != kept.Ops()-ops || opened.Load() != conns || c.Ops > float64(n) {
			t.Errorf("%+v, and the server had %d requests and %d new connections", c, n, opened.Load()-conns)
		}
	}
	slow := Client{Addr: addr, Size: 4, Conns: 3}.TLSInTurns(conf)
	if c, err := slow.Turn(here{}, 60*time.Millisecond); err == nil || slow.Ops() != 3 {
		t.Errorf("%+v, %v, and %d done, want what was begun in the turn to end before the next", c, err, slow.Ops())
	}
	before := asked.Load()
	if slow.Stop() != nil || full.Stop() != nil || kept.Stop() != nil || asked.Load() != before {
		t.Errorf("stopping made %d requests", asked.Load()-before)
	}
}

// TestTurnsInPlainText checks that the thread of a closed loop waits, too.
func TestTurnsInPlainText(t *testing.T) {
	l := Client{Addr: startBackend(t), Size: 100, Conns: 5}.InTurns()
	for range 3 {
		before := l.Ops()
		c := takeTurn(t, l)
		if after := l.Ops(); float64(after-before) < c.Ops+5 || c.Ops < 5 {
			t.Errorf("%+v, and %d was done, want five more at least", c, after-before)
		}
	}
	before := l.Ops()
	if err := l.Stop(); err != nil || l.Ops() != before {
		t.Errorf("stopping did %d, %v", l.Ops()-before, err)
	}
}

// TestTurnFails checks that a load whose workers have gone does not block.
func TestTurnFails(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	l := Client{Addr: ln.Addr().String(), Size: 5, Conns: 4}.TLSInTurns(new(tls.Config))
	for range 2 {
		if c, err := l.Turn(here{}, time.Millisecond); err == nil {
			t.Errorf("nobody answered, and it was %+v", c)
		}
	}
	if l.Stop() == nil {
		t.Error("a load that failed has no error")
	}
}
