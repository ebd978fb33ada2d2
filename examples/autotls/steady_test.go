package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palisade-go/palisade/internal/memnet"
)

// endless answers until a write fails, and tells when and why that was.
func endless(ended chan<- error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		chunk := make([]byte, 32<<10)
		for {
			if _, err := w.Write(chunk); err != nil {
				ended <- err
				return
			}
		}
	})
}

// serveIn runs a server of the program within a bubble.
func serveIn(t *testing.T, h http.Handler) (*memnet.Listener, *http.Server) {
	ln := memnet.Listen("127.0.0.1:80")
	srv := newServer(h)
	srv.Protocols = new(http.Protocols)
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return ln, srv
}

// TestClientTakesNothing: an answer ends if its reader has gone to sleep, under
// HTTP/2 also if that leaves other streams of its connection alone.
func TestClientTakesNothing(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ended := make(chan error, 1)
			mux := http.NewServeMux()
			mux.Handle("/big", endless(ended))
			mux.HandleFunc("/small", func(http.ResponseWriter, *http.Request) {})
			ln, srv := serveIn(t, mux)
			tr := &http.Transport{DialContext: ln.DialContext, Protocols: new(http.Protocols)}
			tr.Protocols.SetHTTP1(!h2)
			tr.Protocols.SetUnencryptedHTTP2(h2)
			begun := time.Now()
			req, err := http.NewRequestWithContext(t.Context(), "GET", "http://www.test/big", nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := tr.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			err = <-ended
			if took := time.Since(begun); !errors.Is(err, os.ErrDeadlineExceeded) || took < stall-time.Second || took > stall+time.Second {
				t.Errorf("HTTP/2 %v: the answer ended after %v with %v, want %v", h2, took, err, stall)
			}
			if h2 {
				req.URL.Path = "/small"
				if res, err := tr.RoundTrip(req); err != nil || res.StatusCode != 200 {
					t.Errorf("another request over the connection: %v", err)
				}
			}
			res.Body.Close()
			tr.CloseIdleConnections()
			srv.Close()
			synctest.Wait()
		})
	}
}

// TestConnectionTakesNothing: a connection ends if its client has stopped to read,
// between small answers and within a large one.
func TestConnectionTakesNothing(t *testing.T) {
	const (
		h1 = "GET /none HTTP/1.1\r\nHost: h\r\n\r\n"
		// The preface of HTTP/2 and two frames that open its windows.
		h2 = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + "\x00\x00\x06\x04\x00\x00\x00\x00\x00" + "\x00\x04\x7f\xff\xff\xff" + "\x00\x00\x04\x08\x00\x00\x00\x00\x00" + "\x7f\x00\x00\x00" +
			// HEADERS of stream 1: GET, http, /, and h as authority.
			"\x00\x00\x06\x01\x05\x00\x00\x00\x01" + "\x82\x86\x84\x41\x01h"
	)
	for _, requests := range []string{strings.Repeat(h1, 10_000), h2} {
		synctest.Test(t, func(t *testing.T) {
			mux := http.NewServeMux()
			mux.HandleFunc("/none", func(http.ResponseWriter, *http.Request) {})
			mux.Handle("/", endless(make(chan error, 1)))
			ln, srv := serveIn(t, mux)
			conn, err := ln.DialContext(t.Context(), "tcp", "")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			go io.WriteString(conn, requests)
			time.Sleep(3 * stall)
			begun := time.Now()
			io.Copy(io.Discard, conn)
			if took := time.Since(begun); took > 0 {
				t.Errorf("after %.14q the connection was still open, for %v", requests, took)
			}
			srv.Close()
			synctest.Wait()
		})
	}
}

// TestClientTakesItsTime: a download may last for much longer than any one write
// of it, and the connection serves the next request after that.
func TestClientTakesItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 8 << 20
		ln, srv := serveIn(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			io.CopyN(w, zeros{}, size)
		}))
		conn, err := ln.DialContext(t.Context(), "tcp", "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		in := bufio.NewReader(conn)
		for range 2 {
			begun := time.Now()
			io.WriteString(conn, "GET / HTTP/1.1\r\nHost: www.test\r\n\r\n")
			res, err := http.ReadResponse(in, nil)
			if err != nil {
				t.Fatal(err)
			}
			for left := size; left > 0; left -= 256 << 10 {
				time.Sleep(stall / 2)
				if _, err := io.CopyN(io.Discard, res.Body, 256<<10); err != nil {
					t.Fatalf("with %d bytes left: %v", left, err)
				}
			}
			if _, err := io.Copy(io.Discard, res.Body); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begun); took < 10*stall {
				t.Errorf("it took %v, which shows nothing", took)
			}
		}
		srv.Close()
		synctest.Wait()
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestClientSendsNothing: a connection ends if the rest of a request does not
// come, be it the head or the body.
func TestClientSendsNothing(t *testing.T) {
	for begin, limit := range map[string]time.Duration{
		"": 10 * time.Second, "GET / HT": 10 * time.Second, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab": stall,
		"GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab": stall, "GET / HTTP/1.1\r\nHost: h\r\n\r\n": 2 * time.Minute,
	} {
		synctest.Test(t, func(t *testing.T) {
			ln, srv := serveIn(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
			conn, err := ln.DialContext(context.Background(), "tcp", "")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			begun := time.Now()
			io.WriteString(conn, begin)
			conn.SetReadDeadline(begun.Add(time.Hour))
			_, err = io.Copy(io.Discard, conn)
			if took := time.Since(begun); errors.Is(err, os.ErrDeadlineExceeded) || took < limit || took > limit+time.Second {
				t.Errorf("after %q the connection ends after %v with %v, want %v", strings.SplitN(begin, "\r\n", 2)[0], took, err, limit)
			}
			srv.Close()
			synctest.Wait()
		})
	}
}

// TestCutOff: what is still under way when the time to drain is over is ended, and
// said to be.
func TestCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		ln, srv := serveIn(t, endless(ended))
		conn, err := ln.DialContext(t.Context(), "tcp", "")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		synctest.Wait()
		begun := time.Now()
		err = stop(t.Context(), []*http.Server{srv})
		if took := time.Since(begun); err == nil || !strings.Contains(err.Error(), "cut off") || took != drain {
			t.Errorf("after %v: %v", took, err)
		}
		<-ended
		synctest.Wait()
		if took := time.Since(begun); took != drain {
			t.Errorf("the answer goes on for %v", took)
		}
	})
}
