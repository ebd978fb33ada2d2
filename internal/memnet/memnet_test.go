package memnet

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palisade-go/palisade/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func TestBothEndsMayWriteFirst(t *testing.T) {
	a, b := Pipe()
	defer a.Close()
	defer b.Close()
	for _, c := range []*Conn{a, b} {
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(b, got); err != nil || string(got) != "hello" {
		t.Fatalf("read %q, %v", got, err)
	}
}

func TestHalfClose(t *testing.T) {
	a, b := Pipe()
	defer b.Close()
	a.Write([]byte("last words"))
	a.CloseWrite()
	got, err := io.ReadAll(b)
	if string(got) != "last words" || err != nil {
		t.Fatalf("read %q, %v", got, err)
	}
	if _, err := b.Write([]byte("answer")); err != nil {
		t.Fatalf("the other direction is closed too: %v", err)
	}
	a.Close()
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Read after Close: %v, want net.ErrClosed", err)
	}
	if _, err := b.Write([]byte("too late")); err == nil {
		t.Error("Write to a closed peer succeeded")
	}
}

func TestWriteBlocksWhenFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe()
		done := make(chan error, 1)
		go func() { _, err := a.Write(make([]byte, 2*bufferSize)); done <- err }()
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("wrote twice the buffer without a reader: %v", err)
		default:
		}
		if n, err := io.ReadFull(b, make([]byte, 2*bufferSize)); err != nil {
			t.Fatalf("read %d: %v", n, err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		a.Close()
		b.Close()
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe()
		start := time.Now()
		a.SetReadDeadline(start.Add(time.Minute))
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("Read: %v, want a timeout", err)
		}
		if d := time.Since(start); d != time.Minute {
			t.Errorf("timed out after %v, want 1m", d)
		}
		a.SetReadDeadline(time.Time{})
		b.Write([]byte("x"))
		if _, err := a.Read(make([]byte, 1)); err != nil {
			t.Errorf("Read after the deadline was lifted: %v", err)
		}
		a.Close()
		b.Close()
	})
}

func TestHTTPOverListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ln := Listen("192.0.2.1:80")
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(time.Hour)
			io.WriteString(w, r.RemoteAddr)
		})}
		go srv.Serve(ln)
		tr := &http.Transport{DialContext: ln.DialContext}
		res, err := (&http.Client{Transport: tr}).Get("http://example.com/")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if !strings.HasPrefix(string(body), "127.0.0.1:") {
			t.Errorf("remote address %q", body)
		}
		tr.CloseIdleConnections()
		srv.Close()
		if _, err := ln.DialContext(t.Context(), "tcp", ""); !errors.Is(err, ErrRefused) {
			t.Errorf("dial after Close: %v", err)
		}
	})
}

func TestDialFrom(t *testing.T) {
	ln := Listen("192.0.2.1:443")
	defer ln.Close()
	from := netip.MustParseAddrPort("[2001:db8::1]:5000")
	c, err := ln.DialFrom(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.RemoteAddr().String() != from.String() || c.RemoteAddr().String() != "192.0.2.1:443" {
		t.Errorf("server sees %v, client sees %v", s.RemoteAddr(), c.RemoteAddr())
	}
}
