package http1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"golang.org/x/net/http/httpguts"
)

// FuzzResponse: what this package accepts, net/http accepts, with the same
// fields, the same body and the same rest on the connection.
func FuzzResponse(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\nContent-Length: 3\n\nabcREST", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTrailer: A\n\n3;e\nabc\n0\nA: b\n\nREST",
		"HTTP/1.0 404 Not\n\nabc", "HTTP/1.1 204 x\nX: y\nx: z\n\n", "HTTP/1.1 101 S\nConnection: Upgrade\nUpgrade: x\n\nbytes",
		"HTTP/1.1 200\nContent-Length : 1\nA B: c\n\na", "HTTP/1.1 100 C\n\nHTTP/1.1 200 OK\n\n",
	} {
		f.Add([]byte(crlf(s)), "GET")
	}
	f.Add([]byte(crlf("HTTP/1.1 200 OK\nContent-Length: 3\n\nREST")), "HEAD")
	f.Fuzz(func(t *testing.T, message []byte, method string) {
		if method != http.MethodHead {
			method = http.MethodGet
		}
		ours := NewReader(bytes.NewReader(message))
		res, err := ours.ReadResponse(method, 64<<10)
		if err != nil {
			return
		}
		br := bufio.NewReader(bytes.NewReader(message))
		want, err := http.ReadResponse(br, &http.Request{Method: method})
		if err != nil {
			t.Fatalf("accepted what net/http refuses: %v", err)
		}
		if res.StatusCode != want.StatusCode || res.ProtoMinor != want.ProtoMinor {
			t.Fatalf("status %d of HTTP/1.%d, want %d of HTTP/1.%d", res.StatusCode, res.ProtoMinor, want.StatusCode, want.ProtoMinor)
		}
		sameFields(t, res.Header, want.Header)
		if want.Close && !res.Close && res.StatusCode >= 200 {
			t.Fatal("net/http would close the connection")
		}
		if method == http.MethodHead || res.StatusCode < 200 || res.StatusCode == 204 || res.StatusCode == 304 {
			return // net/http knows of no body either
		}
		sameBody(t, ours, res.Body, br, want.Body)
		sameFields(t, res.Trailer, want.Trailer)
	})
}

func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\nHost: h\n\nREST", "POST http://a/b?c HTTP/1.1\nHost: h\nContent-Length: 3\n\nabcREST",
		"PUT /x HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\n\n3\nabc\n0\n\nREST", "\nOPTIONS * HTTP/1.0\nConnection: close\n\n", "CONNECT h:1 HTTP/1.1\nHost: h:1\n\n",
	} {
		f.Add([]byte(crlf(s)))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		ours := NewReader(bytes.NewReader(message))
		req, err := ours.ReadRequest(64 << 10)
		if err != nil {
			return
		}
		br := bufio.NewReader(bytes.NewReader(bytes.TrimPrefix(message, []byte("\r\n"))))
		want, err := http.ReadRequest(br)
		if err != nil {
			t.Fatalf("accepted what net/http refuses: %v", err)
		}
		if req.Method != want.Method || req.RequestURI != want.RequestURI || req.Host != want.Host || req.URL.String() != want.URL.String() || req.ProtoMinor != want.ProtoMinor {
			t.Fatalf("got %+v\nwant %+v", req, want)
		}
		sameFields(t, req.Header, want.Header)
		if req.ContentLength != want.ContentLength {
			t.Fatalf("length %d, want %d", req.ContentLength, want.ContentLength)
		}
		sameBody(t, ours, req.Body, br, want.Body)
		sameFields(t, req.Trailer, want.Trailer)
	})
}

// sameFields leaves out what this package drops.
func sameFields(t *testing.T, got, want http.Header) {
	t.Helper()
	known := make(http.Header)
	for name, values := range want {
		if isToken(name) && len(values) > 0 {
			known[textproto.CanonicalMIMEHeaderKey(name)] = values
		}
	}
	have := make(http.Header)
	for name, values := range got {
		if len(values) > 0 {
			have[name] = values
		}
	}
	for name := range known {
		if _, ok := have[name]; !ok && !httpguts.ValidTrailerHeader(name) {
			delete(known, name)
		}
	}
	if !maps.EqualFunc(have, known, slices.Equal[[]string]) {
		t.Fatalf("fields %q, want %q", have, known)
	}
}

// sameBody compares bodies, and what is on the connection after them.
func sameBody(t *testing.T, ours *Reader, got io.Reader, br *bufio.Reader, want io.Reader) {
	t.Helper()
	a, err := io.ReadAll(got)
	b, wantErr := io.ReadAll(want)
	if err != nil {
		return // stricter, or truncated for both
	}
	if wantErr != nil || !bytes.Equal(a, b) {
		t.Fatalf("body %q, want %q, %v", a, b, wantErr)
	}
	rest, _ := io.ReadAll(ours)
	wantRest, _ := io.ReadAll(br)
	if !bytes.Equal(rest, wantRest) {
		t.Fatalf("then %q, want %q", rest, wantRest)
	}
}

// FuzzChunks: what Writer writes, Body and net/http read, however it is cut.
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
		w := NewWriter(&wire, -1)
		for p := range slices.Chunk(body, int(part)+1) {
			if n, err := w.Write(p); n != len(p) || err != nil {
				t.Fatal(n, err)
			}
		}
		if err := w.Close(http.Header{"X-Sum": {sum}, "Content-Length": {"1"}}); err != nil {
			t.Fatal(err)
		}
		wire.WriteString("REST")
		for _, src := range []io.Reader{bytes.NewReader(wire.Bytes()), iotest.HalfReader(bytes.NewReader(wire.Bytes()))} {
			r := NewReader(src)
			res, err := r.ReadResponse("GET", 1000)
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
		got, err := r.ReadRequest(1 << 20)
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
