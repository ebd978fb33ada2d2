package http1

import (
	"bufio"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
)

// crlf lets a test write \n for the end of a line.
func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

// TestBackendFraming: what a backend may send to make two recipients disagree on
// where its response ends is refused; what is certain is not.
func TestBackendFraming(t *testing.T) {
	for _, c := range []struct {
		name, method, message string
		body                  string
		again                 bool // the connection can be used again
	}{
		{"length", "GET", "HTTP/1.1 200 OK\nContent-Length: 3\n\nabcREST", "abc", true},
		{"length zero", "GET", "HTTP/1.1 200 OK\nContent-Length: 0\n\nREST", "", true},
		{"chunks", "GET", "HTTP/1.1 200 OK\nTransfer-Encoding: Chunked\n\n1;x=\"y\"\na\n002;y\nbc\n0\n\nREST", "abc", true},
		{"until close", "GET", "HTTP/1.1 200 OK\n\nabc", "abc", false},
		{"close", "GET", "HTTP/1.1 200 OK\nConnection: x, Close\nContent-Length: 3\n\nabc", "abc", false},
		{"HTTP/1.0", "GET", "HTTP/1.0 200 OK\nConnection: keep-alive\nContent-Length: 3\n\nabc", "abc", false},
		{"HEAD", "HEAD", "HTTP/1.1 200 OK\nContent-Length: 3\n\nREST", "", true},
		{"HEAD of chunks", "HEAD", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\nREST", "", true},
		{"204", "GET", "HTTP/1.1 204 No Content\nContent-Length: 3\n\nREST", "", true},
		{"304", "GET", "HTTP/1.1 304 Not Modified\nContent-Length: 3\n\nREST", "", true},
		{"no reason, no space", "GET", "HTTP/1.1 200\nContent-Length: 0\n\nREST", "", true},
		{"a name that is none", "GET", "HTTP/1.1 200 OK\nBad Name: 1\nContent-Length: 3\n\nabc", "abc", false},
	} {
		r := NewReader(strings.NewReader(crlf(c.message)))
		res, err := r.newResponse(c.method, 1000)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		body, err := io.ReadAll(res.Body)
		if err != nil || string(body) != c.body || res.Close == c.again {
			t.Errorf("%s: %q, %v, close %v; want %q, close %v", c.name, body, err, res.Close, c.body, !c.again)
		}
		if rest, _ := io.ReadAll(r); c.again && !strings.HasPrefix("REST", string(rest)) {
			t.Errorf("%s: then %q", c.name, rest)
		}
	}
	for _, c := range []struct{ name, head string }{
		{"length and chunks", "Content-Length: 3\nTransfer-Encoding: chunked\n"},
		{"chunks and length", "Transfer-Encoding: chunked\nContent-Length: 3\n"},
		{"two lengths", "Content-Length: 3\nContent-Length: 4\n"},
		{"the same length twice", "Content-Length: 3\nContent-Length: 3\n"},
		{"a list of lengths", "Content-Length: 3, 3\n"},
		{"a sign", "Content-Length: +3\n"},
		{"below zero", "Content-Length: -3\n"},
		{"hexadecimal", "Content-Length: 0x3\n"},
		{"an empty length", "Content-Length:\n"},
		{"a length that overflows", "Content-Length: 18446744073709551619\n"},
		{"a length just too large", "Content-Length: 9223372036854775808\n"},
		{"another coding", "Transfer-Encoding: gzip, chunked\n"},
		{"an unknown coding", "Transfer-Encoding: xchunked\n"},
		{"chunked with the Kelvin sign", "Transfer-Encoding: chun\u212aed\n"},
		{"chunked twice", "Transfer-Encoding: chunked\nTransfer-Encoding: chunked\n"},
		{"chunked with a tail", "Transfer-Encoding: chunked;q=1\n"},
		{"identity", "Transfer-Encoding: identity\n"},
		{"an empty coding", "Transfer-Encoding:\n"},
		{"a form feed", "Transfer-Encoding: \vchunked\n"},
		{"space before the colon", "Transfer-Encoding : chunked\nContent-Length: 3\n"},
		{"space in the name of the length", "Content-Length : 3\n"},
		{"a null in the name", "Content-Length\x00: 3\n"},
		{"a fold", "Content-Length: 3\nX: a\n b\n"},
		{"a fold of a length", "Content-Length:\n 3\n"},
		{"a fold first", " X: a\nContent-Length: 3\n"},
		{"no colon", "Content-Length: 3\nx\n"},
		{"no name", ": x\nContent-Length: 3\n"},
		{"a length in the trailer", "Transfer-Encoding: chunked\nTrailer: x, content-length\n"},
		{"a coding in the trailer", "Transfer-Encoding: chunked\nTrailer: Transfer-Encoding\n"},
		{"a bare CR", "Content-Length: 3\nX: a\rb\n"},
		{"a null", "Content-Length: 3\nX: a\x00b\n"},
	} {
		message := "HTTP/1.1 200 OK\r\n" + crlf(c.head)
		res, err := NewReader(strings.NewReader(message+"\r\nabc")).newResponse("GET", 1000)
		if !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, %+v, want it refused", c.name, err, res)
		}
	}
	for _, message := range []string{
		"HTTP/1.1 200 OK\nContent-Length: 3\r\n\r\nabc", "HTTP/1.1 200 OK\r\nContent-Length: 3\nX: a\r\n\r\nabc", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\nabc", "\n\n",
	} {
		if _, err := NewReader(strings.NewReader(message)).newResponse("GET", 1000); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v, want the bare LF refused", message, err)
		}
	}
	for _, line := range []string{
		"HTTP/1.1  200 OK", "HTTP/1.1 20 OK", "HTTP/1.1 2000 OK", "HTTP/1.1 099 Low", "HTTP/1.1 +20 OK", "HTTP/2.0 200 OK", "HTTP/1.2 200 OK",
		"http/1.1 200 OK", " HTTP/1.1 200 OK", "HTTP/1.1\t200 OK", "HTTP/1.1 200 O\x01K", "ICY 200 OK", "",
	} {
		if _, err := NewReader(strings.NewReader(line+"\r\nContent-Length: 0\r\n\r\n")).newResponse("GET", 1000); !errors.Is(err, ErrMalformed) {
			t.Errorf("status line %q: %v, want it refused", line, err)
		}
	}
}

func TestBadChunks(t *testing.T) {
	for _, body := range []string{
		"g\r\n", "\r\n", " 1\r\na\r\n0\r\n\r\n", "1 \r\na\r\n0\r\n\r\n", "1 ;x\r\na\r\n0\r\n\r\n", "0x1\r\na\r\n0\r\n\r\n", "-1\r\n", "1\na\r\n0\r\n\r\n", "1\r\na\n0\r\n\r\n",
		"1\r\nab\r\n0\r\n\r\n", "1;\x01\r\na\r\n0\r\n\r\n", "1;a\rb\r\na\r\n0\r\n\r\n", "10000000000000000\r\n", "8000000000000000\r\n",
		"00000000000000001\r\na\r\n0\r\n\r\n", "1;" + strings.Repeat("x", 2000) + "\r\na\r\n0\r\n\r\n", "1\r\na\r\n0\r\n X: folded\r\n\r\n",
		"1\r\na\r\n0\r\nBad Name: x\r\n\r\n", "1\r\na\r\n0\r\n" + strings.Repeat("X: yyyyyyyyyy\r\n", 2000) + "\r\n",
		strings.Repeat("1;"+strings.Repeat("x", 1000)+"\r\na\r\n", 20) + "0\r\n\r\n",
	} {
		r := NewReader(strings.NewReader("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body))
		res, err := r.newResponse("GET", 1000)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(res.Body); !errors.Is(err, ErrMalformed) && err != ErrTooLarge {
			t.Errorf("%.40q: %q, %v, want it refused", body, b, err)
		}
	}
	for _, message := range []string{"Content-Length: 4\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc", "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n"} {
		res, err := NewReader(strings.NewReader("HTTP/1.1 200 OK\r\n"+message)).newResponse("GET", 1000)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(res.Body); string(b) != "abc" || err != io.ErrUnexpectedEOF {
			t.Errorf("%q: %q, %v, want a truncation", message, b, err)
		}
	}
}

func TestTrailerIsParsed(t *testing.T) {
	message := crlf("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTrailer: x-sum, Authorization\n\n3\nabc\n0\nX-Sum: 1\nX-Late: 2\nContent-Length: 5\nHost: h\n\nREST")
	for _, src := range []io.Reader{strings.NewReader(message), iotest.OneByteReader(strings.NewReader(message))} {
		r := NewReader(src)
		res, err := r.newResponse("GET", 1000)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := res.Trailer["X-Sum"]; !ok || len(res.Trailer) != 1 || res.Header.Get("Trailer") != "" {
			t.Errorf("announced %v", res.Trailer)
		}
		b, err := io.ReadAll(res.Body)
		if string(b) != "abc" || err != nil || res.Trailer.Get("X-Sum") != "1" || res.Trailer.Get("X-Late") != "2" || len(res.Trailer) != 2 {
			t.Errorf("%q, %v, trailer %v", b, err, res.Trailer)
		}
		if rest, _ := io.ReadAll(r); string(rest) != "REST" {
			t.Errorf("then %q", rest)
		}
	}
}

func TestLimits(t *testing.T) {
	for _, size := range []int{100, 5000, 100_000} {
		fits := "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", size-len("HTTP/1.1 200 OK\r\nX: \r\n\r\n")) + "\r\n\r\n"
		if _, err := NewReader(strings.NewReader(fits)).newResponse("GET", size); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
		if _, err := NewReader(strings.NewReader(fits)).newResponse("GET", size-1); err != ErrTooLarge {
			t.Errorf("%d bytes: %v, want a limit of one less to refuse it", size, err)
		}
	}
	many := "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", maxFields+1) + "\r\n"
	if _, err := NewReader(strings.NewReader(many)).newResponse("GET", 1<<20); err != ErrTooManyFields {
		t.Errorf("%d fields: %v", maxFields+1, err)
	}
}

func TestRequests(t *testing.T) {
	for _, c := range []struct {
		message string
		ok      bool
	}{
		{"GET / HTTP/1.1\nHost: h\n\n", true},
		{"\nGET / HTTP/1.1\nHost: h\n\n", true},
		{"\n\nGET / HTTP/1.1\nHost: h\n\n", false},
		{"GET / HTTP/1.0\n\n", true},
		{"GET / HTTP/1.1\n\n", false},
		{"GET / HTTP/1.1\nHost: a\nHost: a\n\n", false},
		{"GET / HTTP/1.1\nHost: a b\n\n", false},
		{"GET  / HTTP/1.1\nHost: h\n\n", false},
		{"GET /a b HTTP/1.1\nHost: h\n\n", false},
		{"GET /\x7f HTTP/1.1\nHost: h\n\n", false},
		{"GET / HTTP/1.1 \nHost: h\n\n", false},
		{"GET / HTTP/2.0\nHost: h\n\n", false},
		{"G(T / HTTP/1.1\nHost: h\n\n", false},
		{"GET relative HTTP/1.1\nHost: h\n\n", false},
		{"GET / HTTP/1.1\nHost: h\nBad Name: x\n\n", false},
		{"GET / HTTP/1.1\nHost: h\nX : x\n\n", false},
		{"POST / HTTP/1.1\nHost: h\nContent-Length: 3\nTransfer-Encoding: chunked\n\n", false},
		{"POST / HTTP/1.0\nHost: h\nTransfer-Encoding: chunked\n\n", false},
		{"OPTIONS * HTTP/1.1\nHost: h\n\n", true},
		{"CONNECT h:443 HTTP/1.1\nHost: h:443\n\n", true},
		{"GET http://other/x HTTP/1.1\nHost: h\n\n", true},
	} {
		req, err := NewReader(strings.NewReader(crlf(c.message))).newRequest(1000)
		if (err == nil) != c.ok {
			t.Errorf("%q: %v", c.message, err)
		}
		if !c.ok {
			continue
		}
		// Then net/http must understand it the same way.
		want, err := http.ReadRequest(bufio.NewReader(strings.NewReader(strings.TrimLeft(crlf(c.message), "\r\n"))))
		if err != nil {
			t.Errorf("%q: net/http: %v", c.message, err)
		} else if req.Method != want.Method || req.URL.String() != want.URL.String() || req.Host != want.Host || req.ContentLength != want.ContentLength || req.RequestURI != want.RequestURI {
			t.Errorf("%q: got %+v\nwant %+v", c.message, req, want)
		}
	}
}
