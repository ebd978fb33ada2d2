package lb

import (
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"strings"
	"time"
)

func post(body string) string {
	return fmt.Sprintf("POST /p HOST\nContent-Length: %d\n\n%s", len(body), body)
}

const chunkedPost = "POST /p HOST\nTransfer-Encoding: chunked\n"

const (
	optionsDiffer  = "OPTIONS * is for the handler, which may be a gateway's, as with DisableGeneralOptionsHandler"
	connectDiffers = "a CONNECT that makes no tunnel ends the connection"
	maxBytesDiffer = "MaxBytesReader can tell net/http's own ResponseWriter alone; a body of which more is left than is worth reading ends the connection all the same"
)

var requestCases = []wireCase{
	{name: "dump", send: "GET /a/%41?b=c;d HOST\nX: 1\nx: 2\nCookie: a\n\n", handler: dump, want: "/a/%41?b=c;d"},
	{name: "dump of a body", send: post("abc"), handler: dump, want: `body \"abc\"`},
	{name: "dump of chunks", send: chunkedPost + "Trailer: A\n\n2;x=y\nab\n1\nc\n0\nA: 1\nB: 2\n\n", handler: dump, want: `A\":[\"1`},
	{name: "dump without chunks", send: chunkedPost + "\n0\n\n", handler: dump, want: "length -1"},
	{name: "dump of a large body", send: post(strings.Repeat("0123456789abcdef", 20_000)), handler: func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n, err)
	}, want: "320000 <nil>"},
	{name: "a length of nothing", send: "POST / HOST\nContent-Length: 0\n\n", handler: func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Body == http.NoBody, r.ContentLength, r.Header)
	}, want: "true 0 map"},
	{name: "no body", send: get, handler: func(w http.ResponseWriter, r *http.Request) {
		n, err := r.Body.Read(make([]byte, 1))
		fmt.Fprint(w, r.Body == http.NoBody, n, err, r.Body.Close())
	}, want: "true 0 EOF <nil>"},
	{name: "GET with a body", send: "GET / HOST\nContent-Length: 3\n\nabc", handler: dump, want: `\"abc\"`},
	{name: "HTTP/1.0 without a host", send: "GET / HTTP/1.0\n\n", handler: dump, want: `host \"\"`},
	{name: "HTTP/1.0 with a body", send: "POST / HTTP/1.0\nContent-Length: 3\n\nabc", handler: dump, want: `\"abc\"`},
	{name: "absolute form", send: "GET http://other/x?y HOST\n\n", handler: dump, want: `host \"other\"`},
	{name: "absolute form with a port", send: "GET http://other:1 HOST\n\n", handler: dump, want: `other:1`},
	{name: "OPTIONS asterisk", send: "OPTIONS * HOST\n\n", handler: dump, want: "length 0",
		differs: optionsDiffer, palisade: "OPTIONS"},
	{name: "OPTIONS asterisk with a body", send: "OPTIONS * HOST\nContent-Length: 3\n\nabc", handler: dump, want: "length 0",
		differs: optionsDiffer, palisade: `\"abc\"`},
	{name: "GET asterisk", send: "GET * HOST\n\n", handler: dump, want: `\"*\"`},
	{name: "a method of one's own", send: "get / HOST\n\n", handler: dump, want: "get"},
	{name: "an odd method", send: "M-SEARCH! / HOST\n\n", handler: dump, want: "M-SEARCH!"},
	{name: "a relative target", send: "GET x HOST\n\n", handler: dump, own: true, want: "400"},
	{name: "two slashes", send: "GET //a//b HOST\n\n", handler: dump, want: "//a//b"},
	{name: "bytes beyond ASCII", send: "GET /\xff HOST\nX: \xff\n\n", handler: dump, want: "\\xff"},
	{name: "Connection close", send: "GET / HOST\nConnection: close\n\n", handler: dump, want: "close true"},
	{name: "Connection close in a list", send: "GET / HOST\nConnection: a, CLOSE\n\n", handler: dump, want: "close true"},
	{name: "Connection keep-alive", send: "GET / HOST\nConnection: keep-alive\n\n", handler: dump, want: "last"},
	{name: "Pragma", send: "GET / HOST\nPragma: no-cache\n\n", handler: dump, want: "Cache-Control",
		differs: "what the client has not sent is not added", palisade: `no-cache\"]\nbody`},
	{name: "upgrade that nobody takes", send: "GET / HOST\nConnection: Upgrade\nUpgrade: x\n\n", handler: dump, want: "Upgrade"},
	{name: "a line before", send: "\nGET / HOST\n\n", handler: dump, own: true, want: "400",
		differs: "RFC 9112, section 2.2, wants one empty line ignored, and net/http does so after a POST only", palisade: `body "last"`},
	{name: "a line between", send: post("abc") + "\n", handler: dump, want: `body "last"`},
	{name: "a line between after a GET", send: get + "\n", handler: hello, own: true, want: "400",
		differs: "RFC 9112, section 2.2, as above", palisade: `body "last"`},
	{name: "pipelined", send: post("one") + get + "HEAD /h HOST\n\n" + chunkedPost + "\n3\ntwo\n0\n\n" + "GET /x HOST\n\n", handler: dump, want: `body "last"`},
	{name: "pipelined, bodies not read", send: post("one") + chunkedPost + "\n3\ntwo\n0\n\n" + get, handler: hello, want: `body "last"`},
	{name: "a body that is not read", send: post(strings.Repeat("x", 100_000)), handler: hello, want: `body "last"`},
	{name: "chunks that are not read", send: chunkedPost + "\n4000\n" + strings.Repeat("x", 0x4000) + "\n0\n\n", handler: hello, want: `body "last"`},
	{name: "a body read in part", send: post(strings.Repeat("x", 100_000)), handler: func(w http.ResponseWriter, r *http.Request) {
		io.ReadFull(r.Body, make([]byte, 7))
		hello(w, r)
	}, want: `body "last"`},
	{name: "a body closed in part", send: post(strings.Repeat("x", 100_000)), handler: func(w http.ResponseWriter, r *http.Request) {
		io.ReadFull(r.Body, make([]byte, 7))
		r.Body.Close()
		_, err := r.Body.Read(make([]byte, 1))
		fmt.Fprint(w, err == http.ErrBodyReadAfterClose)
	}, want: `body "true"`},
	{name: "a body set to nil", send: post("abc"), handler: func(w http.ResponseWriter, r *http.Request) { r.Body = nil; hello(w, r) }, want: `body "last"`},
	{name: "a header set to nil", send: post("abc"), handler: func(w http.ResponseWriter, r *http.Request) { r.Header = nil; r.Method = ""; r.URL = nil; hello(w, r) }, want: `body "last"`},
	{name: "a trailer that is not read", send: chunkedPost + "Trailer: A\n\n1\na\n0\nA: 1\n\n", handler: hello, want: `body "last"`},
	{name: "a body after the answer", send: post("abc"), handler: func(w http.ResponseWriter, r *http.Request) {
		flush(w)
		b, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%q %v", b, err == http.ErrBodyReadAfterClose)
	}, want: `true`},
	{name: "a body after the answer, full duplex", send: post("abc"), handler: func(w http.ResponseWriter, r *http.Request) {
		if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
			panic(err)
		}
		flush(w)
		b, err := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%q %v", b, err)
	}, want: `abc`},
	{name: "a body too large for the handler", send: post("abcdef"), handler: func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 3)); err != nil {
			http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		}
	}, want: "413 Request Entity Too Large", differs: maxBytesDiffer, palisade: `body "last"`},
	{name: "MaxBytesHandler", send: post("abcdef"), handler: http.MaxBytesHandler(http.HandlerFunc(dump), 3).ServeHTTP, want: "too large",
		differs: maxBytesDiffer, palisade: `body "last"`},
	{name: "a form", send: "POST /?a=1 HOST\nContent-Type: application/x-www-form-urlencoded\nContent-Length: 7\n\nb=2&c=3", handler: func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.FormValue("a"), r.FormValue("b"), r.PostFormValue("c"))
	}, want: `"123"`},
	{name: "a form in parts", send: multipartPost(), handler: func(w http.ResponseWriter, r *http.Request) {
		f, h, err := r.FormFile("f")
		if err != nil {
			panic(err)
		}
		defer f.Close()
		b, _ := io.ReadAll(f)
		fmt.Fprintf(w, "%s %d %q", h.Filename, h.Size, b)
	}, want: "name 7"},
	{name: "context", send: get, handler: func(w http.ResponseWriter, r *http.Request) {
		_, hasServer := r.Context().Value(http.ServerContextKey).(*http.Server)
		addr, hasAddr := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		_, hasDeadline := r.Context().Deadline()
		_, _, err := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprint(w, hasServer, hasAddr && strings.HasPrefix(addr.String(), "127.0.0.1:"), r.Context().Err(), hasDeadline, err, r.Pattern)
	}, want: "true true <nil> false <nil>"},
	{name: "expect", send: "POST / HOST\nExpect: 100-continue\nContent-Length: 3\n\nabc", handler: dump, want: "HTTP/1.1 100 Continue"},
	{name: "expect in capitals", send: "POST / HOST\nExpect: 100-CONTINUE\nContent-Length: 3\n\nabc", handler: dump, want: "HTTP/1.1 100 Continue"},
	{name: "expect, not read", send: "POST / HOST\nExpect: 100-continue\nContent-Length: 3\n\nabc", handler: hello, want: "close true"},
	{name: "expect, chunks", send: chunkedPost + "Expect: 100-continue\n\n1\na\n0\n\n", handler: dump, want: "HTTP/1.1 100 Continue"},
	{name: "expect without a body", send: "GET / HOST\nExpect: 100-continue\n\n", handler: dump, want: `body "last"`},
	{name: "expect from HTTP/1.0", send: "POST / HTTP/1.0\nExpect: 100-continue\nContent-Length: 3\n\nabc", handler: dump, want: "Expect"},
	{name: "expect another thing", send: "GET / HOST\nExpect: x\n\n", handler: dump, own: true, want: "417"},
	{name: "expect nothing", send: "GET / HOST\nExpect:\n\n", handler: dump, want: `body "last"`},
	{name: "expect, said by the handler", send: "POST / HOST\nExpect: 100-continue\nContent-Length: 3\n\nabc", handler: func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(100)
		dump(w, r)
	}, want: "100 Continue"},
	{name: "a head that is too large", send: "GET / HOST\nX: " + strings.Repeat("x", 20_000) + "\n\n", handler: hello, own: true, want: "431"},
	{name: "a head that just fits", send: "GET / HOST\nX: " + strings.Repeat("x", 7_000) + "\n\n", handler: hello, want: "hello"},
	{name: "strip prefix", send: "GET /p/a%2fb HOST\n\n", handler: http.StripPrefix("/p", http.HandlerFunc(dump)).ServeHTTP, want: "/a%2fb"},
	{name: "timeout handler, in time", send: get, handler: http.TimeoutHandler(http.HandlerFunc(hello), time.Minute, "late").ServeHTTP, want: "hello"},
	{name: "timeout handler, late", send: get, handler: http.TimeoutHandler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }), time.Millisecond, "late").ServeHTTP, want: "503 Service Unavailable"},
	{name: "CONNECT", send: "CONNECT h:1 HOST\n\n", handler: dump, want: `body "last"`,
		differs: connectDiffers, palisade: `CONNECT`},
	{name: "CONNECT, the last request", send: "CONNECT h:1 HOST\nConnection: close\n\n", handler: dump, want: `CONNECT`},
	{name: "CONNECT a path", send: "CONNECT /x HOST\nConnection: close\n\n", handler: dump, want: `CONNECT`},
	{name: "CONNECT with a body", send: "CONNECT h:1 HOST\nConnection: close\nContent-Length: 3\n\nabc", handler: dump, want: `body \"abc\"`},
	{name: "CONNECT that panics", send: "CONNECT h:1 HOST\n\n", handler: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, want: "END"},
}

func multipartPost() string {
	var b strings.Builder
	w := multipart.NewWriter(&b)
	f, _ := w.CreateFormFile("f", "name")
	io.WriteString(f, "content")
	w.Close()
	// The writer ends lines with CRLF, and run makes them of \n.
	length := b.Len()
	return fmt.Sprintf("POST / HOST\nContent-Type: %s\nContent-Length: %d\n\n%s", w.FormDataContentType(), length, strings.ReplaceAll(b.String(), "\r\n", "\n"))
}

// framingCases are requests that are refused, or where one might think so.
var framingCases = []wireCase{
	{name: "no host", send: "GET / HTTP/1.1\n\n", own: true, want: "400"},
	{name: "two hosts", send: "GET / HOST\nHost: h\n\n", own: true, want: "400"},
	{name: "an empty host", send: "GET / HTTP/1.1\nHost:\n\n", handler: dump, want: `host \"\"`},
	{name: "a host with a space", send: "GET / HTTP/1.1\nHost: a b\n\n", own: true, want: "400"},
	{name: "HTTP/1.2", send: "GET / HTTP/1.2\nHost: h\n\n", own: true, handler: hello, want: "200",
		differs: "a minor version that does not exist is refused", palisade: "505"},
	{name: "HTTP/2.0", send: "GET / HTTP/2.0\nHost: h\n\n", own: true, want: "505"},
	{name: "no version", send: "GET /\n\n", own: true, want: "400"},
	{name: "a version in small letters", send: "GET / http/1.1\nHost: h\n\n", own: true, want: "400"},
	{name: "no request", send: "nonsense\n\n", own: true, want: "400"},
	{name: "two spaces", send: "GET  / HOST\n\n", own: true, want: "400"},
	{name: "a method that is none", send: "G@T / HOST\n\n", own: true, want: "400"},
	{name: "a bad escape", send: "GET /%zz HOST\n\n", own: true, want: "400"},
	{name: "space in a name", send: "GET / HOST\nX Y: z\n\n", own: true, want: "400"},
	{name: "space before the colon", send: "GET / HOST\nX : z\n\n", own: true, want: "400"},
	{name: "a name beyond ASCII", send: "GET / HOST\n\xe4: z\n\n", own: true, want: "400"},
	{name: "no name", send: "GET / HOST\n: z\n\n", own: true, want: "400"},
	{name: "no colon", send: "GET / HOST\nX\n\n", own: true, want: "400"},
	{name: "a null in a value", send: "GET / HOST\nX: \x00\n\n", own: true, want: "400"},
	{name: "a fold in a field", send: "GET / HOST\nX: a\n b\n\n", own: true, handler: hello, want: "200",
		differs: "folds are refused (RFC 9112, section 5.2)", palisade: "400"},
	{name: "a fold first", send: "GET / HTTP/1.1\n X: a\nHost: h\n\n", own: true, want: "400"},
	{name: "lengths that differ", send: "POST / HOST\nContent-Length: 3\nContent-Length: 4\n\nabc", own: true, want: "400"},
	{name: "lengths that agree", send: "POST / HOST\nContent-Length: 3\nContent-Length: 3\n\nabc", own: true, handler: dump, want: "200",
		differs: "a second Content-Length is refused (RFC 9112, section 6.3)", palisade: "400"},
	{name: "a length with a sign", send: "POST / HOST\nContent-Length: +3\n\nabc", own: true, want: "400"},
	{name: "an empty length", send: "POST / HOST\nContent-Length:\n\n", own: true, want: "400"},
	{name: "chunks and a length", send: "POST / HOST\nContent-Length: 3\nTransfer-Encoding: chunked\n\n0\n\n", own: true, handler: dump, want: "200",
		differs: "Content-Length beside Transfer-Encoding is refused (RFC 9112, section 6.1)", palisade: "400"},
	{name: "another coding", send: "POST / HOST\nTransfer-Encoding: gzip, chunked\n\n0\n\n", own: true, want: "501"},
	{name: "two codings", send: "POST / HOST\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked\n\n0\n\n", own: true, want: "501"},
	{name: "identity coding", send: "POST / HOST\nTransfer-Encoding: identity\n\n", own: true, want: "501"},
	{name: "an empty coding", send: "POST / HOST\nTransfer-Encoding:\n\n", own: true, want: "501"},
	{name: "chunks in HTTP/1.0", send: "POST / HTTP/1.0\nTransfer-Encoding: chunked\n\n0\n\n", own: true, handler: hello, want: "200",
		differs: "Transfer-Encoding in HTTP/1.0 is refused (RFC 9112, section 6.1)", palisade: "400"},
	{name: "a bad chunk", send: chunkedPost + "\nx\n", handler: bodyError, want: "failed"},
	{name: "a chunk that is too long", send: chunkedPost + "\n1\nab\n0\n\n", handler: bodyError, want: "failed"},
	{name: "a bad trailer", send: chunkedPost + "\n1\na\n0\nx\n\n", handler: bodyError, want: "failed"},
	{name: "a bad chunk that is not read", send: chunkedPost + "\nx\n", handler: hello, want: "hello"},
	{name: "a forbidden trailer announced", send: chunkedPost + "Trailer: Content-Length\n\n0\n\n", own: true, want: "400"},
}

// bodyError reads a body that is broken.
func bodyError(w http.ResponseWriter, r *http.Request) {
	if _, err := io.ReadAll(r.Body); err != nil {
		io.WriteString(w, "failed")
	}
}
