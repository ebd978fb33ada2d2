package lb

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
)

const get = "GET / HOST\n\n"

// set returns a handler that sets fields, given in turns, and says hello.
func set(fields ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for i := 0; i < len(fields); i += 2 {
			w.Header().Add(fields[i], fields[i+1])
		}
		hello(w, r)
	}
}

// status answers with a status and tells in the log of the answer what Write
// said: nowhere, for the body may be none.
func status(code int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		io.WriteString(w, body)
	}
}

func absent(names ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		for _, name := range names {
			w.Header()[name] = nil
		}
		hello(w, r)
	}
}

// parts writes sizes one after the other.
func parts(sizes ...int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for _, n := range sizes {
			io.WriteString(w, strings.Repeat("x", n))
		}
	}
}

// trailing declares and sets trailers.
func trailing(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Trailer", "A, B")
	w.Header().Add("Trailer", "C")
	hello(w, r)
	w.Header().Set("A", "1")
	w.Header().Set("C", "3")
	w.Header().Set("D", "not declared")
	w.Header().Set(http.TrailerPrefix+"E", "5")
}

func flush(w http.ResponseWriter) { w.(http.Flusher).Flush() }

var responseCases = []wireCase{
	{name: "nothing", send: get, handler: func(http.ResponseWriter, *http.Request) {}, want: "length 0"},
	{name: "small", send: get, handler: hello, want: `Content-Length: ["5"]`},
	{name: "sniffed", send: get, handler: func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html><body>x") }, want: "text/html"},
	{name: "sniffed from parts", send: get, handler: func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<ht"); io.WriteString(w, "ml><body>") }, want: "text/html"},
	{name: "sniffed before a flush", send: get, handler: func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "\x89PNG\x0d\x0a\x1a\x0a")
		flush(w)
		io.WriteString(w, "<html>")
	}, want: "image/png"},
	{name: "flush without a body", send: get, handler: func(w http.ResponseWriter, _ *http.Request) { flush(w) }, want: `["chunked"]`},
	{name: "flush then write", send: get, handler: func(w http.ResponseWriter, r *http.Request) { flush(w); hello(w, r) }, want: `["chunked"]`},
	{name: "exactly held back", send: get, handler: parts(2048), want: "length 2048"},
	{name: "held back in parts", send: get, handler: parts(1000, 1000, 48), want: "length 2048"},
	{name: "more than is held back", send: get, handler: parts(2049), want: `["chunked"]`},
	{name: "more in parts", send: get, handler: parts(1000, 1000, 49), want: `["chunked"]`},
	{name: "large", send: get, handler: parts(1<<20, 1), want: `1048577 bytes`},
	{name: "wordy", send: get, handler: wordy, want: "10000 bytes"},
	{name: "no type for an empty body", send: get, handler: status(404, ""), want: "404 Not Found length 0"},
	{name: "an empty write", send: get, handler: func(w http.ResponseWriter, _ *http.Request) { w.Write(nil) }, want: "length 0"},
	{name: "its own length", send: get, handler: set("Content-Length", "5"), want: "length 5"},
	{name: "its own length, written too little", send: get, handler: set("Content-Length", "6"), want: "unexpected EOF"},
	{name: "its own length, written too much", send: get, handler: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "3")
		w.Header().Set("Trailer", "E")
		n, err := io.WriteString(w, "abc")
		m, tooMuch := io.WriteString(w, "d")
		if n != 3 || err != nil || m != 0 || !errors.Is(tooMuch, http.ErrContentLength) {
			panic(fmt.Sprint(n, err, m, tooMuch))
		}
	}, want: `body "abc"`},
	{name: "a length of zero", send: get, handler: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "0")
		if _, err := io.WriteString(w, "x"); !errors.Is(err, http.ErrContentLength) {
			panic(err)
		}
	}, want: "length 0"},
	{name: "a length that is none", send: get, handler: set("Content-Length", "x"), want: `["chunked"]`,
		differs: "the length is counted anew", palisade: "length 5"},
	{name: "a negative length", send: get, handler: set("Content-Length", "-1"), want: `["chunked"]`,
		differs: "the length is counted anew", palisade: "length 5"},
	{name: "two lengths", send: get, handler: set("Content-Length", "5", "Content-Length", "5"), want: "length 5"},
	{name: "identity", send: get, handler: set("Transfer-Encoding", "identity"), want: "length -1"},
	{name: "identity and a length", send: get, handler: set("Transfer-Encoding", "identity", "Content-Length", "5"), want: "length 5"},
	{name: "chunked by the handler", send: get, handler: set("Transfer-Encoding", "chunked"), want: `["chunked"]`},
	{name: "chunked and a length", send: get, handler: set("Transfer-Encoding", "chunked", "Content-Length", "5"), want: `["chunked"]`},
	{name: "its own type", send: get, handler: set("Content-Type", "x/y"), want: "x/y"},
	{name: "no type", send: get, handler: absent("Content-Type"), want: "length 5"},
	{name: "no date, no type", send: get, handler: absent("Date", "Content-Type"), want: "length 5"},
	{name: "no length", send: get, handler: absent("Content-Length"), want: `["chunked"]`},
	{name: "its own date", send: get, handler: set("Date", "x"), want: `Date: ["x"]`},
	{name: "an encoding, no sniffing", send: get, handler: set("Content-Encoding", "gzip"), want: "gzip"},
	{name: "an empty encoding", send: get, handler: set("Content-Encoding", ""), want: "text/plain"},
	{name: "two values", send: get, handler: set("X", "1", "X", "2"), want: `["1" "2"]`},
	{name: "a line break in a value", send: get, handler: set("X", "a\r\nY: b"), want: `X: ["a  Y: b"]`},
	{name: "control characters in a value", send: get, handler: set("X", "a\tb"), want: "X"},
	{name: "space around a value", send: get, handler: set("X", "  a b "), want: `X: ["a b"]`},
	{name: "a name that is none", send: get, handler: func(w http.ResponseWriter, r *http.Request) {
		w.Header()["A B"] = []string{"x"}
		w.Header()["X\r\nY"] = []string{"x"}
		w.Header()["odd-CASE"] = []string{"kept"}
		hello(w, r)
	}, want: "kept"},
	{name: "fields after the head", send: get, handler: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("A", "1")
		w.WriteHeader(201)
		w.Header().Set("A", "2")
		w.Header().Set("B", "2")
		hello(w, r)
	}, want: `A: ["1"]`},
	{name: "a field after the first write", send: get, handler: func(w http.ResponseWriter, r *http.Request) { hello(w, r); w.Header().Set("B", "2") }, want: "200 OK"},
	{name: "two statuses", send: get, handler: func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(404); w.WriteHeader(200); hello(w, r) }, want: "404"},
	{name: "a status without a name", send: get, handler: status(599, "x"), want: "599"},
	{name: "a status of 999", send: get, handler: status(999, "x"), want: "999"},
	{name: "a status of 0", send: get, handler: status(0, "x"), want: "END"},
	{name: "a status of 1000", send: get, handler: status(1000, "x"), want: "END"},
	{name: "204", send: get, handler: func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(204)
		if _, err := w.Write([]byte("x")); err != http.ErrBodyNotAllowed {
			panic(err)
		}
	}, want: "204 No Content"},
	{name: "204 with a type and a length", send: get, handler: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "a/b")
		w.Header().Set("Content-Length", "3")
		w.WriteHeader(204)
	}, want: "204 No Content"},
	{name: "304", send: get, handler: status(304, "x"), want: "304 Not Modified"},
	{name: "304 with a type and a length", send: get, handler: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "a/b")
		w.Header().Set("Content-Length", "3")
		w.WriteHeader(304)
	}, want: "304 Not Modified"},
	{name: "205", send: get, handler: status(205, ""), want: "205"},
	{name: "early hints", send: get, handler: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</a>")
		w.WriteHeader(103)
		w.Header().Add("Link", "</b>")
		w.WriteHeader(103)
		w.Header().Set("Content-Length", "5")
		hello(w, r)
	}, want: "103 Early Hints"},
	{name: "processing", send: get, handler: func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(102); hello(w, r) }, want: "102 Processing"},
	{name: "101 without a takeover", send: get, handler: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Upgrade", "x")
		w.Header().Set("Connection", "Upgrade")
		w.WriteHeader(101)
	}, want: "101 Switching Protocols",
		differs: "after a 101 nobody speaks HTTP/1.1 on the connection", palisade: "trailer map[]\nEND"},
	{name: "HEAD small", send: "HEAD / HOST\n\n", handler: hello, want: "length 5"},
	{name: "HEAD nothing", send: "HEAD / HOST\n\n", handler: func(http.ResponseWriter, *http.Request) {}, want: "200 OK"},
	{name: "HEAD large", send: "HEAD / HOST\n\n", handler: wordy, want: "200 OK"},
	{name: "HEAD with a length", send: "HEAD / HOST\n\n", handler: set("Content-Length", "77"), want: "length 77"},
	{name: "HEAD with a length alone", send: "HEAD / HOST\n\n", handler: func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Content-Length", "77") }, want: "length 77"},
	{name: "HEAD flushed", send: "HEAD / HOST\n\n", handler: func(w http.ResponseWriter, r *http.Request) { flush(w); hello(w, r) }, want: "200 OK"},
	{name: "HEAD 404", send: "HEAD / HOST\n\n", handler: status(404, "none"), want: "404 Not Found length 4"},
	{name: "HEAD read from", send: "HEAD / HOST\n\n", handler: func(w http.ResponseWriter, _ *http.Request) {
		io.Copy(w, struct{ io.Reader }{strings.NewReader("hello")})
	}, want: "200 OK"},
	{name: "HEAD chunked", send: "HEAD / HOST\n\n", handler: set("Transfer-Encoding", "chunked"), want: "200 OK"},
	{name: "read from small", send: get, handler: func(w http.ResponseWriter, _ *http.Request) {
		n, err := w.(io.ReaderFrom).ReadFrom(strings.NewReader("hello"))
		if n != 5 || err != nil {
			panic(fmt.Sprint(n, err))
		}
	}, want: `body "hello"`},
	{name: "read from large", send: get, handler: func(w http.ResponseWriter, _ *http.Request) {
		io.Copy(w, struct{ io.Reader }{strings.NewReader(strings.Repeat("abc\n", 50_000))})
	}, want: "200000 bytes"},
	{name: "read from with a length", send: get, handler: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "200000")
		io.Copy(w, struct{ io.Reader }{strings.NewReader(strings.Repeat("abc\n", 50_000))})
	}, want: "length 200000"},
	{name: "read from more than the length", send: get, handler: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, err := io.Copy(w, struct{ io.Reader }{strings.NewReader(strings.Repeat("x", 5000))})
		if err == nil {
			panic("no error")
		}
	}, want: "length 100"},
	{name: "written and read from", send: get, handler: func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "one ")
		io.Copy(w, struct{ io.Reader }{strings.NewReader("two ")})
		io.WriteString(w, "three")
	}, want: `body "one two three"`},
	{name: "Connection close from the handler", send: get, handler: set("Connection", "close"), want: "close true"},
	{name: "Connection keep-alive from the handler", send: get, handler: set("Connection", "keep-alive"), want: "keep-alive"},
	{name: "Connection close in a list from the handler", send: get, handler: set("Connection", "x, close"), want: "close true",
		differs: "net/http says that it closes, and does not", palisade: "trailer map[]\nEND"},
	{name: "Connection close after the head", send: get, handler: func(w http.ResponseWriter, r *http.Request) {
		flush(w)
		w.Header().Set("Connection", "close")
		hello(w, r)
	}, want: `body "last"`},
	{name: "trailers", send: get, handler: trailing, want: `"E":["5"]`},
	{name: "trailers to HEAD", send: "HEAD / HOST\n\n", handler: trailing, want: "200 OK"},
	{name: "trailers to HTTP/1.0", send: "GET / HTTP/1.0\n\n", handler: trailing, want: "200 OK"},
	{name: "trailers without a body", send: get, handler: func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Trailer", "A")
		w.WriteHeader(200)
		w.Header().Set("A", "1")
	}, want: `"A":["1"]`},
	{name: "trailers that were not announced", send: get, handler: func(w http.ResponseWriter, r *http.Request) {
		hello(w, r)
		flush(w)
		w.Header().Set(http.TrailerPrefix+"late", "1")
		w.Header().Set(http.TrailerPrefix+"Content-Length", "1")
	}, want: `"Late":["1"]`, differs: "fields that must not be in a trailer are left out (RFC 9110, section 6.5.1)", palisade: `map["Late":["1"]]`},
	{name: "a trailer that must not be", send: get, handler: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "Content-Length, A")
		hello(w, r)
		w.Header().Set("Content-Length", "99")
		w.Header().Set("A", "1")
	}},
	{name: "a panic", send: get, handler: func(http.ResponseWriter, *http.Request) { panic("expected") }, want: "END"},
	{name: "a panic after a small write", send: get, handler: func(w http.ResponseWriter, r *http.Request) { hello(w, r); panic("expected") }, want: "END"},
	{name: "a panic after a flush", send: get, handler: func(w http.ResponseWriter, r *http.Request) { hello(w, r); flush(w); panic("expected") }, want: "unexpected EOF"},
	{name: "an abort", send: get, handler: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, want: "END"},
	{name: "an abort of a length", send: get, handler: func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "10")
		hello(w, r)
		flush(w)
		panic(http.ErrAbortHandler)
	}, want: "unexpected EOF"},
	{name: "http.Error", send: get, handler: func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusTeapot) }, want: "nosniff"},
	{name: "http.Redirect", send: get, handler: func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/x?y", http.StatusSeeOther) }, want: "/x?y"},
	{name: "many fields", send: get, handler: func(w http.ResponseWriter, _ *http.Request) {
		for i := range 200 {
			w.Header().Set("X-"+strconv.Itoa(i), strings.Repeat("v", i))
		}
	}, want: "X-199"},
	{name: "HTTP/1.0", send: "GET / HTTP/1.0\n\n", handler: hello, want: "close true"},
	{name: "HTTP/1.0 without a length", send: "GET / HTTP/1.0\n\n", handler: wordy, want: "length -1"},
	{name: "HTTP/1.0 flushed", send: "GET / HTTP/1.0\n\n", handler: func(w http.ResponseWriter, r *http.Request) { flush(w); hello(w, r) }, want: "length -1"},
	{name: "HTTP/1.0 chunked by the handler", send: "GET / HTTP/1.0\n\n", handler: set("Transfer-Encoding", "chunked"), want: `body "hello"`},
	{name: "HTTP/1.0 early hints", send: "GET / HTTP/1.0\n\n", handler: func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(103); hello(w, r) }, want: "hello"},
	{name: "HTTP/1.0 keep-alive", send: "GET / HTTP/1.0\nConnection: keep-alive\n\n", handler: hello, want: `body "last"`},
	{name: "HTTP/1.0 keep-alive without a length", send: "GET / HTTP/1.0\nConnection: keep-alive\n\n", handler: wordy, want: "length -1"},
	{name: "HTTP/1.0 keep-alive 204", send: "GET / HTTP/1.0\nConnection: keep-alive\n\n", handler: status(204, ""), want: "204"},
	{name: "HTTP/1.0 keep-alive HEAD", send: "HEAD / HTTP/1.0\nConnection: keep-alive\n\n", handler: hello, want: "200"},
}
