package lb

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestMalformedResponses: a response that is no HTTP is never passed on, nor
// anything that follows it, and its connection is not used again.
func TestMalformedResponses(t *testing.T) {
	const hidden = "HTTP/1.1 200 OK\nContent-Length: 4\n\nevil"
	heads := []string{
		"HTTP/2.0 200 OK\n\n",
		"HTTP/1.2 200 OK\n\n",
		"http/1.1 200 OK\n\n",
		" HTTP/1.1 200 OK\n\n",
		"\nHTTP/1.1 200 OK\n\n",
		"HTTP/1.1 20 OK\n\n",
		"HTTP/1.1 2000 OK\n\n",
		"HTTP/1.1 2x0 OK\n\n",
		"HTTP/1.1  200 OK\n\n",
		"HTTP/1.1\t200 OK\n\n",
		"HTTP/1.1 200 O\x00K\n\n",
		"HTTP/1.1 000 Zero\n\n",
		"HTTP/1.1 200 OK\nno colon\n\n",
		"HTTP/1.1 200 OK\n: no name\n\n",
		"HTTP/1.1 200 OK\nX: a\x00b\n\n",
		"HTTP/1.1 200 OK\nX: a\x7fb\n\n",
		"HTTP/1.1 200 OK\nX: a\n folded\n\n",
		"HTTP/1.1 200 OK\nContent-Length: -1\n\n",
		"HTTP/1.1 200 OK\nContent-Length: 0x2\n\n",
		"HTTP/1.1 200 OK\nContent-Length: 2 2\n\n",
		"HTTP/1.1 200 OK\nContent-Length: 2, 3\n\n",
		"HTTP/1.1 200 OK\nContent-Length: 99999999999999999999\n\n",
		"HTTP/1.1 200 OK\nContent-Length: \n\n",
		"HTTP/1.1 200 OK\nTransfer-Encoding: gzip\n\n",
		"HTTP/1.1 200 OK\nTransfer-Encoding: chunked, chunked\n\n0\n\n",
		"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTransfer-Encoding: identity\n\n0\n\n",
		"HTTP/1.1 200 OK\nTransfer-Encoding: xchunked\n\n0\n\n",
		"HTTP/1.1 200 OK\nX: " + strings.Repeat("x", 300<<10) + "\n\n",
		"HTTP/1.1 200 OK\n" + strings.Repeat("X: y\n", 1100) + "\n",
		strings.Repeat("HTTP/1.1 103 Early Hints\n\n", 40),
	}
	bodies := []string{
		"zz\nevil\n0\n\n",
		"-4\nevil\n0\n\n",
		"0x4\nevil\n0\n\n",
		"4\nevil2\n0\n\n",
		"5\nevil\n0\n\n",
		"4\nevil",
		"4\nevil\n",
		"4 ;\x00\nevil\n0\n\n",
		"fffffffffffffffff\nevil\n0\n\n",
		"\nevil\n0\n\n",
		"0\nno colon\n\n",
		"0\nX: " + strings.Repeat("x", 20<<10) + "\n\n",
	}
	for i, answer := range append(heads, bodies...) {
		head := i < len(heads)
		if !head {
			answer = "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n" + answer
		}
		r := newRig(t, PoolConfig{}, ProxyConfig{}, nil, rawBackend(t, func(c *conn) {
			if _, ok := c.reqHead(); !ok {
				return
			}
			text := answer
			if head {
				text += hidden
			}
			io.WriteString(c, strings.ReplaceAll(text, "\n", "\r\n")) // perhaps to nobody
			if head {
				c.r.ReadByte() // until the proxy ends the connection
			}
		}))
		client := dialRaw(t, r.addr)
		client.send("GET / HTTP/1.1\nHost: h\n\n")
		var res *http.Response
		var err error
		for res == nil || res.StatusCode < 200 {
			if res, err = http.ReadResponse(client.r, nil); err != nil {
				break
			}
		}
		if head {
			if err != nil || res.StatusCode != 502 {
				t.Errorf("%.60q: %v, %v, want 502", answer, res, err)
			}
		} else if err == nil {
			if body, err := io.ReadAll(res.Body); err == nil {
				t.Errorf("%.60q: the client sees a whole response %q", answer, body)
			}
		}
		e := r.event()
		if e.Err == nil || e.Attempts != 1 {
			t.Errorf("%.60q: event %+v", answer, e)
		}
		if s := r.settled()[0]; s.Failures != 1 {
			t.Errorf("%.60q: status %+v", answer, s)
		}
		client.Close()
	}
}
