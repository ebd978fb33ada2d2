package http1

import (
	"math/rand/v2"
	"strconv"
)

// generator makes messages by a grammar that knows what has fooled parsers, and
// then damages some of them. Equal seeds make equal messages.
type generator struct {
	src *rand.PCG
	buf []byte
	bag uint64 // random bits that have not been used
	has int
}

func newGenerator(seed uint64) *generator {
	return &generator{src: rand.NewPCG(seed, 0x9e3779b97f4a7c15)}
}

// n returns a number below max, which is at most 1<<16.
func (g *generator) n(max int) int {
	if g.has < 16 {
		g.bag, g.has = g.src.Uint64(), 64
	}
	v := g.bag & 0xffff
	g.bag >>= 16
	g.has -= 16
	return int(v * uint64(max) >> 16)
}

// one says yes once in n times.
func (g *generator) one(n int) bool { return g.n(n) == 0 }

func (g *generator) add(s string)              { g.buf = append(g.buf, s...) }
func (g *generator) pick(list []string) string { return list[g.n(len(list))] }

// oddly adds something usual, or once in n times something odd.
func (g *generator) oddly(n int, usual, odd []string) {
	if g.one(n) {
		usual = odd
	}
	g.add(g.pick(usual))
}

var (
	usualMethods  = []string{"GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE"}
	oddMethods    = []string{"CONNECT", "get", "", "G T", "GE\x00T", "GET\t", " GET", "M-SEARCH", "\x80", "GET /x", "PRI", "TRACE"}
	usualTargets  = []string{"/", "/a?b=c", "/%41/b", "http://a/b", "*", "/a;b"}
	oddTargets    = []string{"", "http://", "http:///x", "a:1", "//x/y", "/a b", "/a\tb", "/\x00", "/\x80", "/%zz", "http:x", "http://a@b/", "http://[::1]:x/", "?", "h:1", "/\x7f", "http://a\\b/", "/#f"}
	usualVersions = []string{"HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0"}
	oddVersions   = []string{"HTTP/1.2", "HTTP/2.0", "http/1.1", "HTTP/1.1 ", " HTTP/1.1", "HTTP/1.10", "", "HTTP/0.9", "HTTP/1,1", "HTTP/+1.1", "HTTP/1.1\t", "HTTP/ 1.1"}
	usualEnds     = []string{"\r\n"}
	oddEnds       = []string{"\n", "\r", "\r\r\n", "\n\r", "\r\n ", "\r\n\t", "\x00\r\n", "\x0b\r\n", "\x0c", "\x85", "\r\n\r\n"}
	oddNames      = []string{
		"", " ", "X Y", "\tX", "X\x00", "\x80X", "Content-Length ", "Content-Length\t", " Content-Length", "Transfer-Encoding ", "Content_Length",
		"content-length", "TRANSFER-ENCODING", "Transfer\x00-Encoding", "Content-Length\x0b", "Trailer", "Host", "Connection", "Content-\x20Length", "(x)", "Pragma",
	}
	usualNames  = []string{"X", "Accept", "Cookie", "x-lower", "User-Agent", "Cache-Control", "Pragma", "Te", "Expect", "Upgrade", "Via"}
	usualValues = []string{"a", "", "a, b", "no-cache", "close", "x y", "\xff\x80", "\"q\\\"s\"", "100-continue", "a:b", "trailers"}
	oddValues   = []string{" a ", "\ta\t", "a\x00", "a\rb", "a\nb", "a\r\n b", "a\r\n\tb", "\x7f", "a\x01", "\r\n\r\n", "a\x0b", "\xc4\x8d\xc4\x8a"}
	usualColons = []string{": "}
	oddColons   = []string{":", " : ", ":\t", "", " ", "::", ":\x00", ":\r\n "}
	oddLengths  = []string{
		"", "+3", "-3", "0x3", "3, 3", "3,4", "3 4", "03", "00000000000000000003", "0000000000000000003", "9223372036854775807", "9223372036854775808",
		"18446744073709551619", "3.0", "3e0", "\x0b3", "3\x00", "\xd9\xa3", " 3", "3\t", "3_0", "1_0", "NaN", "3\r\n 4",
	}
	codings    = []string{"chunked", "chunked", "Chunked", "CHUNKED"}
	oddCodings = []string{
		"identity", "gzip, chunked", "chunked, gzip", "chunked, chunked", "xchunked", "chunked;q=1", "", " chunked ", "\tchunked", "chunked\x00", "\x0bchunked",
		"\"chunked\"", "chunked\r\n", "chu\r\n nked", "\r\n chunked", "chunKed\xe2\x84\xaa", "chun\xe2\x84\xaaed", "chunked,", ",chunked",
	}
	connections = []string{"close", "keep-alive", "Close", "x, close", "closed", "\"close\"", "close x", "te, close", "Transfer-Encoding", "Content-Length", "close,close"}
	trailers    = []string{"X-Sum", "x-sum, y", "Content-Length", "Transfer-Encoding", "Trailer", "Host", "", ",", "X Y", "X-Sum,Content-Length", "\x80", "Authorization"}
	hosts       = []string{"h", "h:80", "", "[::1]", "a.b"}
	oddHosts    = []string{"a b", "a/b", "h\x00", "h\r\nHost: i", "h, i", "a@b", "\x80", "h\t", "h\\i", "h?x"}
	extensions  = []string{";a", ";a=b", " ;a=\"b;c\"", ";", ";;"}
	oddExtra    = []string{" ", "\t", ";a\x00", ";a\rb", ";\x7f", "\x00", "x", ",", ";a\n", " a", "\x0b", ";\"\r\n\""}
	sizePrefix  = []string{"", "", "", "0", "00"}
	oddPrefix   = []string{"+", "-", "0x", " ", "\t", "00000000000000000", "ffffffffffffffff", "8000000000000000", "7fffffffffffffff", "1_", "\x00", "g", "10000000000000000"}
	reasons     = []string{" OK", " Not Found", "", " ", "  ", " \x80", " a b"}
	oddReasons  = []string{" \x00", "\t", " a\rb", " \x7f", "OK", " \x01"}
	statuses    = []string{"200", "200", "200", "404", "204", "304", "100", "101", "199", "206", "500"}
	oddStatuses = []string{"99", "099", "+20", "-20", "2000", "20", "2 0", "", "0x1", "999", "000", " 200", "20a", "1e2"}
	debris      = []string{"\r\n", "\n", "\r", " ", "\t", ":", "\x00", "0", "\r\n\r\n", "0\r\n\r\n", ";", ",", "\x80", "chunked", "Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", "-", "\x7f", "1"}
)

// request makes the bytes of a connection that begin with a request, or with
// what may be taken for one. They are valid until the next call.
func (g *generator) request() []byte {
	g.buf = g.buf[:0]
	if g.one(50) {
		g.add("\r\n")
	}
	g.oddly(20, usualMethods, oddMethods)
	g.add(" ")
	g.oddly(20, usualTargets, oddTargets)
	g.add(" ")
	g.oddly(30, usualVersions, oddVersions)
	g.end()
	if !g.one(50) {
		g.field("Host", hosts, oddHosts)
	}
	g.rest()
	return g.buf
}

// response is the same with a response.
func (g *generator) response() []byte {
	g.buf = g.buf[:0]
	g.oddly(30, usualVersions, oddVersions)
	g.add(" ")
	g.oddly(20, statuses, oddStatuses)
	g.oddly(30, reasons, oddReasons)
	g.end()
	g.rest()
	return g.buf
}

func (g *generator) end() { g.oddly(60, usualEnds, oddEnds) }

func (g *generator) field(name string, usual, odd []string) {
	g.add(name)
	g.oddly(60, usualColons, oddColons)
	g.oddly(12, usual, odd)
	g.end()
}

// rest adds fields, a body, what comes after it, and damage.
func (g *generator) rest() {
	size := g.n(40)
	isChunked := false
	for range g.n(4) {
		name := g.pick(usualNames)
		if g.one(25) {
			name = g.pick(oddNames)
		}
		g.field(name, usualValues, oddValues)
	}
	switch g.n(8) {
	case 0:
	case 1, 2, 3:
		isChunked = g.coding()
	case 4:
		g.length(size)
		isChunked = g.one(2) && g.coding()
	default:
		g.length(size)
		if g.one(12) {
			g.length(size + g.n(2))
		}
	}
	if g.one(6) {
		g.field("Connection", connections, oddValues)
	}
	if g.one(5) {
		g.field("Trailer", trailers, oddValues)
	}
	g.end()
	if isChunked {
		g.chunks()
	} else {
		g.bytes(size)
	}
	if g.one(2) {
		g.add("GET /next HTTP/1.1\r\nHost: h\r\n\r\n")
	}
	for g.one(3) {
		g.damage()
	}
}

func (g *generator) coding() bool {
	g.field("Transfer-Encoding", codings, oddCodings)
	if g.one(20) {
		g.field("Transfer-Encoding", codings, oddCodings)
	}
	return true
}

func (g *generator) length(size int) {
	g.add("Content-Length")
	g.oddly(40, usualColons, oddColons)
	if g.one(12) {
		g.add(g.pick(oddLengths))
	} else {
		g.buf = strconv.AppendInt(g.buf, int64(size), 10)
	}
	g.end()
}

func (g *generator) bytes(n int) {
	for range n {
		g.buf = append(g.buf, "abc\r\n0: "[g.n(8)])
	}
}

func (g *generator) chunks() {
	for range g.n(4) {
		size := 1 + g.n(20)
		g.size(size)
		g.bytes(size)
		g.end()
	}
	g.size(0)
	for range max(0, g.n(5)-2) {
		g.oddly(12, []string{"X-Sum", "Y", "x-late"}, oddNames)
		g.oddly(60, usualColons, oddColons)
		g.oddly(12, usualValues, oddValues)
		g.end()
	}
	g.end()
}

func (g *generator) size(n int) {
	g.oddly(60, sizePrefix, oddPrefix)
	g.buf = strconv.AppendInt(g.buf, int64(n), 16)
	if g.one(6) {
		g.oddly(6, extensions, oddExtra)
	}
	g.end()
}

// damage changes a few bytes somewhere.
func (g *generator) damage() {
	if len(g.buf) == 0 {
		return
	}
	at := g.n(len(g.buf))
	switch g.n(5) {
	case 0:
		g.buf[at] ^= 1 << g.n(8)
	case 1:
		g.buf[at] = byte(g.n(256))
	case 2: // lose some
		end := min(len(g.buf), at+1+g.n(4))
		g.buf = append(g.buf[:at], g.buf[end:]...)
	case 3: // the end is missing
		if g.one(4) {
			g.buf = g.buf[:at]
		}
	default:
		piece := g.pick(debris)
		g.add(piece)
		copy(g.buf[at+len(piece):], g.buf[at:])
		copy(g.buf[at:], piece)
	}
}

// step is how many bytes at a time the connection gives.
func (g *generator) step() int {
	if g.one(4) {
		return 1 + g.n(30)
	}
	return everything
}
