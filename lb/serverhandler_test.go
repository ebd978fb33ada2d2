package lb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestServerNoticesDisconnect: whoever asks, and however, is told that the client
// has gone; the next request on a connection that stays is not lost.
func TestServerNoticesDisconnect(t *testing.T) {
	ways := map[string]func(context.Context) error{
		"/done": func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() },
		"/child": func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, time.Minute)
			defer cancel()
			<-ctx.Done()
			return ctx.Err()
		},
		"/afterfunc": func(ctx context.Context) error {
			ended := make(chan struct{})
			context.AfterFunc(ctx, func() { close(ended) })
			<-ended
			return context.Cause(ctx)
		},
		"/poll": func(ctx context.Context) error {
			for ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			return ctx.Err()
		},
	}
	told := make(chan error, 1)
	rig := startServer(t, &Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if wait := ways[r.URL.Path]; wait != nil {
			told <- wait(r.Context())
			return
		}
		select { // long enough for the watch to begin
		case <-r.Context().Done():
		case <-time.After(4 * watchDelay):
		}
		fmt.Fprint(w, r.URL.Path, r.Context().Err())
	})})
	for path := range ways {
		for _, head := range []string{"GET " + path + " HTTP/1.1\nHost: h\n\n", "POST " + path + " HTTP/1.1\nHost: h\nContent-Length: 1\n\nx"} {
			c := rig.dial(t)
			c.send(head)
			time.Sleep(2 * watchDelay) // for some the watch has begun, for some not
			c.Close()
			select {
			case err := <-told:
				if !errors.Is(err, context.Canceled) {
					t.Errorf("%s: %v", path, err)
				}
			case <-time.After(10 * time.Second):
				t.Errorf("%s does not notice", path)
			}
		}
	}
	c := rig.dial(t)
	c.send("GET /1 HTTP/1.1\nHost: h\n\nGET /2 HTTP/1.1\nHost: h\n\n")
	for _, want := range []string{"/1<nil>", "/2<nil>"} {
		if _, body := c.receive("GET"); body != want {
			t.Errorf("body %q, want %q", body, want)
		}
	}
	for i := range 3 {
		c.send("GET /3 HTTP/1.1\nHost: h\n\n")
		time.Sleep(time.Duration(i) * 2 * watchDelay)
		c.send("GET /4 HTTP/1.1\nHost: h\n\n")
		for _, want := range []string{"/3<nil>", "/4<nil>"} {
			if _, body := c.receive("GET"); body != want {
				t.Errorf("body %q, want %q", body, want)
			}
		}
	}
}

// TestServerContextEndsWithHandler: what outlives the handler is told, and cannot
// write into the next response.
func TestServerContextEndsWithHandler(t *testing.T) {
	kept := make(chan http.ResponseWriter, 3)
	over := make(chan error, 3)
	rig := startServer(t, &Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		kept <- w
		context.AfterFunc(r.Context(), func() { over <- r.Context().Err() })
	})})
	c := rig.dial(t)
	c.send("GET / HTTP/1.1\nHost: h\n\n")
	c.receive("GET")
	if err := <-over; err != context.Canceled {
		t.Error(err)
	}
	first := <-kept
	c.send("GET / HTTP/1.1\nHost: h\n\n")
	c.receive("GET")
	<-kept
	if _, err := first.Write(bytes.Repeat([]byte("x"), 100_000)); err == nil {
		t.Error("a write after the handler has returned succeeds")
	}
	c.send("GET / HTTP/1.1\nHost: h\n\n")
	if _, body := c.receive("GET"); body != "" {
		t.Errorf("body %.20q", body)
	}
}

// TestServerPanic: the connection ends, the log has the stack, and the server
// goes on; ErrAbortHandler is not logged.
func TestServerPanic(t *testing.T) {
	rig := startServer(t, &Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "x")
		if r.URL.Path == "/flush" {
			w.(http.Flusher).Flush()
		}
		if r.URL.Path == "/abort" {
			panic(http.ErrAbortHandler)
		}
		panic("oh no")
	})})
	for _, path := range []string{"/abort", "/", "/flush"} {
		c := rig.dial(t)
		c.send("GET " + path + " HTTP/1.1\nHost: h\n\n")
		got, _ := io.ReadAll(c.Reader)
		if whole := bytes.HasSuffix(got, []byte("0\r\n\r\n")); whole || path != "/flush" && len(got) > 0 {
			t.Errorf("%s: %q", path, got)
		}
		if logged := strings.Contains(rig.log.String(), "oh no"); logged != (path != "/abort") {
			t.Errorf("%s: log %q", path, rig.log)
		}
	}
}

// TestServerHijack: what came early is there, and the connection is the
// handler's, also after the server has ended.
func TestServerHijack(t *testing.T) {
	rig := startServer(t, &Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Context().Done()
		time.Sleep(2 * watchDelay) // the watch has begun
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		go func() {
			defer conn.Close()
			line, _ := rw.ReadString('\n')
			rw.WriteString("got " + line)
			rw.Flush()
		}()
	})})
	for _, pause := range []time.Duration{0, 3 * watchDelay} {
		c := rig.dial(t)
		c.send("GET / HTTP/1.1\nHost: h\n\n")
		time.Sleep(pause)
		c.send("hello\n")
		if got, err := io.ReadAll(c.Reader); string(got) != "got hello\r\n" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := rig.Shutdown(ctx); err != nil {
		t.Error(err)
	}
}

// TestServerUnreadBody: a small body that the handler leaves is read, so that the
// connection lives; a large one is not, and the client gets the response.
func TestServerUnreadBody(t *testing.T) {
	rig := startServer(t, &Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(403) })})
	c := rig.dial(t)
	for range 2 {
		c.send("POST / HTTP/1.1\nHost: h\nContent-Length: 100000\n\n" + strings.Repeat("x", 100_000))
		if res, _ := c.receive("POST"); res.StatusCode != 403 || res.Close {
			t.Fatalf("%+v", res)
		}
	}
	c.send("POST / HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\n\n")
	go func(c net.Conn) {
		chunk := "10000\r\n" + strings.Repeat("x", 0x10000) + "\r\n"
		for range 100 {
			if _, err := io.WriteString(c, chunk); err != nil {
				return
			}
		}
	}(c.Conn)
	if res, _ := c.receive("POST"); res.StatusCode != 403 || !res.Close {
		t.Fatalf("%+v", res)
	}
	c = rig.dial(t)
	c.send("POST / HTTP/1.1\nHost: h\nContent-Length: 3\nExpect: 100-continue\n\n")
	if res, _ := c.receive("POST"); res.StatusCode != 403 || !res.Close {
		t.Fatalf("%+v", res)
	}
	c.closed()
}

// TestServerFullDuplex: the response begins before the request has ended.
func TestServerFullDuplex(t *testing.T) {
	rig := startServer(t, &Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		rc.Flush()
		buf := make([]byte, 1)
		for {
			n, err := r.Body.Read(buf)
			w.Write(bytes.ToUpper(buf[:n]))
			rc.Flush()
			if err != nil {
				return
			}
		}
	})})
	c := rig.dial(t)
	c.send("POST / HTTP/1.1\nHost: h\nContent-Length: 3\n\n")
	res, err := http.ReadResponse(c.Reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 1)
	for _, s := range []string{"a", "b", "c"} {
		c.send(s)
		if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != strings.ToUpper(s) {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 {
		t.Errorf("%q, %v", rest, err)
	}
}

// TestServerFiles: files of all sizes arrive whole, with and without a length.
func TestServerFiles(t *testing.T) {
	dir := t.TempDir()
	content := make(map[string][]byte)
	for _, n := range []int{0, 1, 511, 512, 2048, 2049, 4096, 4097, 100_000, 3 << 20} {
		name := fmt.Sprint(n)
		content[name] = bytes.Repeat([]byte("0123456789abcdefg"), n/17+1)[:n]
		if err := os.WriteFile(filepath.Join(dir, name), content[name], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files := http.FileServer(http.Dir(dir))
	rig := startServer(t, &Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RawQuery == "" {
			files.ServeHTTP(w, r)
			return
		}
		f, err := os.Open(filepath.Join(dir, r.URL.Path))
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		io.Copy(w, f)
	})})
	c := rig.dial(t)
	for name, want := range content {
		for _, query := range []string{"", "?chunked"} {
			c.send("GET /" + name + query + " HTTP/1.1\nHost: h\n\n")
			if res, body := c.receive("GET"); body != string(want) || query == "" && res.ContentLength != int64(len(want)) {
				t.Errorf("%s%s: %d bytes, length %d", name, query, len(body), res.ContentLength)
			}
		}
	}
}

// TestServerHeaderIsSanitized: nothing that a handler sets splits the response.
func TestServerHeaderIsSanitized(t *testing.T) {
	rig := startServer(t, &Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h["X-A"] = []string{"1\r\nX-Evil: 1", "2"}
		h["X: evil\r\nX-Evil"] = []string{"1"}
		h["Content-Length"] = []string{"-5"}
		w.WriteHeader(200)
		w.WriteHeader(500)
		h.Set("X-Late", "1")
		io.WriteString(w, "x")
	})})
	c := rig.dial(t)
	c.send("GET / HTTP/1.1\nHost: h\n\n")
	res, body := c.receive("GET")
	if body != "x" || !slices.Equal(res.Header["X-A"], []string{"1  X-Evil: 1", "2"}) || len(res.Header) != 4 || res.ContentLength != 1 {
		t.Errorf("%q, %v", body, res.Header)
	}
	if log := rig.log.String(); !strings.Contains(log, "superfluous") || !strings.Contains(log, "TestServerHeaderIsSanitized") || !strings.Contains(log, "Content-Length") {
		t.Errorf("log %q", log)
	}
}

// TestServerFramingIsItsOwn: a handler that writes the fields of framing in letters
// of its own does not get a second framing into the response.
func TestServerFramingIsItsOwn(t *testing.T) {
	rig := startServer(t, &Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h["content-length"], h["TRANSFER-ENCODING"], h["trailer"] = []string{"1"}, []string{"chunked"}, []string{"X"}
		io.WriteString(w, "hello")
	})})
	c := rig.dial(t)
	for range 2 {
		c.send("GET / HTTP/1.1\nHost: h\n\n")
		if res, body := c.receive("GET"); body != "hello" || res.ContentLength != 5 || len(res.TransferEncoding) > 0 {
			t.Errorf("body %q, length %d, coding %q", body, res.ContentLength, res.TransferEncoding)
		}
	}
}
