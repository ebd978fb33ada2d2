package http1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/net/http/httpguts"
)

// FuzzRequest: see differ. The step is how many bytes at a time come.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\nHost: h\n\nREST", "POST http://a/b?c HTTP/1.1\nHost: h\nContent-Length: 3\n\nabcREST",
		"PUT /x HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\n\n3\nabc\n0\n\nREST", "\nOPTIONS * HTTP/1.0\nConnection: close\n\n", "CONNECT h:1 HTTP/1.1\nHost: h:1\n\n",
	} {
		f.Add([]byte(crlf(s)), uint8(0))
	}
	for g := newGenerator(1); g.n(100) > 0; {
		f.Add(slices.Clone(g.request()), uint8(g.n(256)))
	}
	d := newDiffer()
	f.Fuzz(func(t *testing.T, message []byte, step uint8) {
		if err := d.request(message, everything); err != nil {
			t.Fatal(err)
		}
		if err := d.request(message, 1+int(step)); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzResponse is the same for the responses to a GET and a HEAD.
func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\nContent-Length: 3\n\nabcREST", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTrailer: A\n\n3;e\nabc\n0\nA: b\n\nREST",
		"HTTP/1.0 404 Not\n\nabc", "HTTP/1.1 204 x\nX: y\nx: z\n\n", "HTTP/1.1 101 S\nConnection: Upgrade\nUpgrade: x\n\nbytes",
		"HTTP/1.1 200\nContent-Length : 1\nA B: c\n\na", "HTTP/1.1 100 C\n\nHTTP/1.1 200 OK\n\n",
	} {
		f.Add([]byte(crlf(s)), uint8(0))
	}
	for g := newGenerator(1); g.n(100) > 0; {
		f.Add(slices.Clone(g.response()), uint8(g.n(256)))
	}
	d := newDiffer()
	f.Fuzz(func(t *testing.T, message []byte, step uint8) {
		if err := d.response(message, http.MethodGet, 1+int(step)); err != nil {
			t.Fatal(err)
		}
		if err := d.response(message, http.MethodHead, everything); err != nil {
			t.Fatal("HEAD:", err)
		}
	})
}

// FuzzChunks: what an upload writes, Body and net/http read, however it is cut.
func FuzzChunks(f *testing.F) {
	f.Add([]byte("hello, world"), uint8(3), "1")
	f.Add([]byte{}, uint8(1), "")
	f.Add(bytes.Repeat([]byte("x"), 10_000), uint8(255), "a b")
	f.Fuzz(func(t *testing.T, body []byte, part uint8, sum string) {
		if !httpguts.ValidHeaderFieldValue(sum) || len(sum) > 1000 {
			return
		}
		var wire bytes.Buffer
		wire.WriteString("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
		var room [chunkRoom + uploadSize + 2]byte
		parts := append(slices.Collect(slices.Chunk(body, int(part)+1)), nil)
		for i, p := range parts {
			n := copy(room[chunkRoom:], p)
			out, err := frame(&room, n, i == len(parts)-1, http.Header{"X-Sum": {sum}, "Content-Length": {"1"}})
			if err != nil {
				t.Fatal(err)
			}
			wire.Write(out)
		}
		wire.WriteString("REST")
		for _, src := range []io.Reader{bytes.NewReader(wire.Bytes()), iotest.HalfReader(bytes.NewReader(wire.Bytes()))} {
			r := NewReader(src)
			res, err := r.newResponse("GET", 1000)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(res.Body)
			if err != nil || !bytes.Equal(got, body) || res.Trailer.Get("X-Sum") != strings.Trim(sum, " \t") || len(res.Trailer) != 1 {
				t.Fatalf("%q, %v, trailer %q; want %q, %q", got, err, res.Trailer, body, sum)
			}
			if rest, _ := io.ReadAll(r); string(rest) != "REST" {
				t.Fatalf("then %q", rest)
			}
		}
		res, err := http.ReadResponse(bufio.NewReader(&wire), nil)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(res.Body); err != nil || !bytes.Equal(got, body) {
			t.Fatalf("net/http reads %q, %v", got, err)
		}
	})
}

// FuzzAppendRequest: whatever a request holds, what is sent is one request, and
// the one that was meant.
func FuzzAppendRequest(f *testing.F) {
	f.Add("GET", "/a?b", "example.com", "X-A", "v")
	f.Add("POST", "/a b", "h\r\nX: y", "X: y\r\nZ", "v\r\n\r\nGET / HTTP/1.1")
	f.Fuzz(func(t *testing.T, method, target, host, name, value string) {
		req, err := http.NewRequest("GET", "http://h/", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Method, req.Host = method, host
		req.URL.Path, req.URL.RawQuery = "/"+target, target
		req.Header[name] = []string{value}
		head, err := AppendRequest(nil, req)
		if err != nil {
			return
		}
		r := NewReader(strings.NewReader(string(head) + "REST"))
		got, err := r.newRequest(1 << 20)
		if err != nil {
			t.Fatalf("sent %q, which is refused: %v", head, err)
		}
		if method != "" && got.Method != method || len(got.Header) > 2 || fmt.Sprint(got.URL) != "http://"+host+got.RequestURI && got.URL.Path != req.URL.Path {
			t.Fatalf("sent %q, which is read as %+v", head, got)
		}
		if rest, _ := io.ReadAll(r); string(rest) != "REST" {
			t.Fatalf("then %q", rest)
		}
	})
}
