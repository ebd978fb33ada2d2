package lb

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// refusalModes are the ways in which a Server may meet a request.
func refusalModes(t *testing.T, f func(*testing.T, mode, frontConf)) {
	for _, m := range matrixModes[2:] {
		for name, c := range map[string]frontConf{"": {}, " and HTTP/2": {h2c: true, nextProtos: []string{"h2", "http/1.1"}}} {
			t.Run(m.name+name, func(t *testing.T) { f(t, m, c) })
		}
	}
}

// combined is an event's line without the time.
func combined(e Event) string {
	line := string(e.AppendCombined(nil))
	return line[strings.Index(line, "] ")+2:]
}

// next waits for an event.
func next(t *testing.T, events <-chan Event) Event {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(20 * time.Second):
		t.Fatal("nobody was told of a refusal")
		return Event{}
	}
}

// TestRefusals: each request that no handler gets has a record, and one only, with
// the status that the client sees and what is known of the request.
func TestRefusals(t *testing.T) {
	cases := []struct{ name, send, line, err string }{
		{"no HTTP", "nonsense\r\n\r\n", `"nonsense" 400 15 "-" "-"`, "the request line"},
		{"nothing", "\r\n\r\n", `"-" 400 15 "-" "-"`, "no request line"},
		{"after an empty line", "\r\nnonsense\r\n\r\n", `"nonsense" 400 15 "-" "-"`, "the request line"},
		{"other bytes", "\x16\x03\x01 \"\x00\\\r\n\r\n", `"\x16\x03\x01 \x22\x00\x5c" 400 15 "-" "-"`, "the request line"},
		{"a long line", strings.Repeat("x", 5000) + "\r\n\r\n", `"` + strings.Repeat("x", maxLogField) + `" 400 15 "-" "-"`, "the request line"},
		{"no CR", "GET /a HTTP/1.1\nHost: h\n\n", `"GET /a HTTP/1.1" 400 15 "-" "-"`, "without CR"},
		{"no host", "GET /a HTTP/1.1\r\nUser-Agent: curl\r\n\r\n", `"GET /a HTTP/1.1" 400 15 "-" "curl"`, "Host"},
		{"a bad field", "GET /a HTTP/1.1\r\nHost: h\r\nReferer: http://r\r\nX : y\r\n\r\n", `"GET /a HTTP/1.1" 400 15 "http://r" "-"`, "field"},
		{"a bad target", "GET http://[ HTTP/1.1\r\nHost: h\r\n\r\n", `"GET http://[ HTTP/1.1" 400 15 "-" "-"`, "target"},
		{"two lengths", "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", `"POST /a HTTP/1.1" 400 15 "-" "-"`, "Content-Length"},
		{"an unknown coding", "POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", `"POST /a HTTP/1.1" 501 19 "-" "-"`, "Transfer-Encoding"},
		{"an unknown version", "GET /a HTTP/3.0\r\nHost: h\r\n\r\n", `"GET /a HTTP/3.0" 505 30 "-" "-"`, "version"},
		{"an unknown expectation", "POST /a HTTP/1.1\r\nHost: h\r\nExpect: more\r\nContent-Length: 1\r\n\r\n", `"POST /a HTTP/1.1" 417 22 "-" "-"`, "expectation"},
		{"too many fields", "GET /a HTTP/1.1\r\nHost: h\r\n" + strings.Repeat("X: y\r\n", 1001) + "\r\n", `"GET /a HTTP/1.1" 431 35 "-" "-"`, "too many"},
		// By the server inside:
		{"a large head", "GET /a HTTP/1.1\r\nHost: h\r\nX: " + strings.Repeat("x", 20<<10) + "\r\n\r\n", `"GET /a HTTP/1.1" 431 35 "-" "-"`, "too large"},
		{"a large line", "GET /" + strings.Repeat("x", 20<<10), `"GET /` + strings.Repeat("x", maxLogField-5) + `" 431 35 "-" "-"`, "too large"},
		{"an unknown expectation of a tunnel", "CONNECT h:1 HTTP/1.1\r\nHost: h:1\r\nExpect: more\r\n\r\n", `"CONNECT h:1 HTTP/1.1" 417 0 "-" "-"`, "net/http"},
	}
	refusalModes(t, func(t *testing.T, m mode, conf frontConf) {
		events := make(chan Event, 100)
		conf.onRefused = func(e Event) { events <- e }
		conf.maxHeaderBytes = 16 << 10
		conf.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			http.Error(w, "mine", http.StatusBadRequest)
		})
		s := m.serve(t, conf)
		before := strings.ReplaceAll(getRoot, "\n", "\r\n")
		for _, c := range cases {
			begin := time.Now()
			k := s.dial()
			io.WriteString(k, before+c.send)
			if res, _ := k.response("GET"); res.StatusCode != 400 { // of which nobody is told
				t.Errorf("%s: the handler's answer is %v", c.name, res.Status)
			}
			res, body := k.response("GET")
			e := next(t, events)
			if got := combined(e); got != c.line+"\n" {
				t.Errorf("%s: %.200q\nwant %.200q", c.name, got, c.line)
			}
			if e.Status != res.StatusCode || e.ResponseBytes != int64(len(body)) || !res.Close {
				t.Errorf("%s: %d of %d bytes was told of, the client got %d of %d; close %v", c.name, e.Status, e.ResponseBytes, res.StatusCode, len(body), res.Close)
			}
			r := e.Request
			if r.URL == nil || r.Header == nil || r.Body == nil || r.RemoteAddr != k.LocalAddr().String() || (r.TLS != nil) != m.tls || r.Context() == nil {
				t.Errorf("%s: request %+v", c.name, r)
			}
			if failure, ok := e.Err.(*Error); !ok || failure.Status != e.Status || !strings.Contains(e.Err.Error(), c.err) {
				t.Errorf("%s: error %v, want one about %s", c.name, e.Err, c.err)
			}
			if e.Start.Before(begin) || e.Duration < 0 || e.Start.Add(e.Duration).After(time.Now()) {
				t.Errorf("%s: it began %v after the connection and took %v", c.name, e.Start.Sub(begin), e.Duration)
			}
			var out bytes.Buffer
			slog.New(slog.NewJSONHandler(&out, nil)).LogAttrs(t.Context(), slog.LevelInfo, "refused", e.LogAttrs()...)
			if !json.Valid(out.Bytes()) || bytes.Count(out.Bytes(), []byte("\n")) != 1 || out.Len() > 5*maxLogField {
				t.Errorf("%s: %.200q", c.name, out.String())
			}
		}
		// What a handler answers is not refused, by whichever server.
		for _, head := range []string{"CONNECT h:1 HTTP/1.1\nHost: h:1\n\n", "POST / HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\n\nnonsense\n"} {
			k := s.dial()
			k.send(head)
			if res, body := k.response("POST"); res.StatusCode != 400 || body != "mine\n" {
				t.Errorf("%q: %v, %q", head, res.Status, body)
			}
			io.Copy(io.Discard, k.r)
		}
		k := s.dial() // nor is a client that says nothing, or goes away
		k.send("GET / HT")
		k.Close()
		s.dial().Close()
		if err := s.front.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if len(events) > 0 {
			t.Errorf("also refused: %q", combined(<-events))
		}
	})
}

// TestRefusedHTTPToHTTPS: of which there is not even a whole line.
func TestRefusedHTTPToHTTPS(t *testing.T) {
	refusalModes(t, func(t *testing.T, m mode, conf frontConf) {
		if !m.tls {
			return
		}
		events := make(chan Event, 1)
		conf.onRefused = func(e Event) { events <- e }
		c := m.serve(t, conf).open()
		io.WriteString(c, strings.ReplaceAll(getRoot, "\n", "\r\n"))
		if got, _ := io.ReadAll(c); !strings.HasPrefix(string(got), "HTTP/1.0 400 ") {
			t.Errorf("the client got %q", got)
		}
		if got := combined(next(t, events)); got != `"GET /" 400 48 "-" "-"`+"\n" {
			t.Errorf("%q", got)
		}
	})
}

// TestRefusedInTime: whoever does not go on with a head is told of, with what has
// come of it; whoever does not begin is not.
func TestRefusedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events := make(chan Event, 10)
		s := matrixModes[2].serve(t, frontConf{inMemory: true, readHeader: 3 * time.Second, onRefused: func(e Event) { events <- e }})
		s.dial().endsAfter(time.Now(), 3*time.Second)
		for _, c := range []struct{ send, line string }{
			{"GET /a", `"GET /a" 408 19 "-" "-"`},
			{"GET /a HTTP/1.1\nHost: h\nUser-Agent: slow\n", `"GET /a HTTP/1.1" 408 19 "-" "-"`}, // which may go on
		} {
			k, begin := s.dial(), time.Now()
			k.send(getRoot + c.send)
			k.response("GET")
			if res, _ := k.response("GET"); res.StatusCode != 408 {
				t.Errorf("%q: %v", c.send, res.Status)
			}
			k.endsAfter(begin, 3*time.Second)
			if e := next(t, events); combined(e) != c.line+"\n" || e.Duration != 3*time.Second {
				t.Errorf("%q: %v, %q", c.send, e.Duration, combined(e))
			}
		}
		if len(events) > 0 {
			t.Errorf("also refused: %q", combined(<-events))
		}
	})
}

// TestRefusalPanics: a hook that panics costs a line in the log.
func TestRefusalPanics(t *testing.T) {
	s := matrixModes[2].serve(t, frontConf{maxHeaderBytes: 8 << 10, onRefused: func(Event) { panic("hook") }})
	for _, send := range []string{"nonsense\n\n", "GET / HTTP/1.1\nX: " + strings.Repeat("x", 16<<10) + "\n\n"} {
		k := s.dial()
		k.send(send)
		if res, _ := k.response("GET"); res.StatusCode/100 != 4 {
			t.Errorf("%.20q: %v", send, res.Status)
		}
	}
	if err := s.front.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if n := strings.Count(s.log.String(), "panic=hook"); n != 2 {
		t.Errorf("%d panics logged:\n%s", n, s.log.String())
	}
}

// FuzzRefusedLine: whatever comes is one line with three quoted fields.
func FuzzRefusedLine(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\n"))
	f.Add([]byte("x\"y z HTTP/9.9"))
	f.Add([]byte("\r\n"))
	f.Add(bytes.Repeat([]byte("x"), 2*maxLogField))
	f.Fuzz(func(t *testing.T, head []byte) {
		c := &serverConn{ctx: context.Background(), remote: "192.0.2.1:1"}
		r := c.understood(new(http.Request), head)
		line := string(Event{Request: r, Status: 400}.AppendCombined(nil))
		if strings.Count(line, "\n") != 1 || strings.Count(line, `"`) != 6 || strings.ContainsAny(line, "\r\x00\x1b") || len(line) > 5*maxLogField {
			t.Fatalf("line %q", line)
		}
		if r.Method == "" && len(r.RequestURI) > maxLogField {
			t.Fatalf("%d bytes of it are kept", len(r.RequestURI))
		}
		first, _, _ := strings.Cut(string(head), "\n")
		if whole := strings.Join([]string{r.Method, r.RequestURI, r.Proto}, " "); r.Method != "" && !strings.HasPrefix(first, whole) {
			t.Fatalf("%q was understood as %q", head, whole)
		}
	})
}
