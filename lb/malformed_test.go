package lb

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// TestMalformedHTTP2: what net/http lets pass of a client of HTTP/2 gets 400, or
// the stream is reset, and no backend sees it or is blamed.
func TestMalformedHTTP2(t *testing.T) {
	backend := new(seen)
	r := newRig(t, PoolConfig{}, ProxyConfig{}, nil, backend)
	front := newH2CServer(t, 100, r.server.handler)
	for _, c := range []struct{ change, want string }{
		{"", "200"},
		{"content-length: 0", "200"},
		{"host: H.test", "200"},
		{":method: GET /evil", "400"},
		{":path: http://evil.test/", "400"},
		{":path: /a b", "400"},
		{":path: /a#b", "400"},
		{":path: /?a#b", "400"},
		{":path: *", "400"},
		{":authority: h test", "400"},
		{":authority: h/test", "400"},
		{":authority: u:p@h.test", "RST_STREAM"},
		{":authority:", "400"}, // and no Host
		{"host: other.test", "400"},
		{"content-length: 5", "400"}, // and no body
		{"content-length: 0\ncontent-length: 5", "400"},
		{"content-length: -1", "400"},
		{"connection: close", "400"},
		{"transfer-encoding: chunked", "400"},
		{"x: a\rb", "RST_STREAM"},
	} {
		if got := sendHTTP2(t, front.Listener.Addr().String(), c.change); got != c.want {
			t.Errorf("%q: %s, want %s", c.change, got, c.want)
		}
	}
	if s := r.pool.Status()[0]; s.Requests != 3 || s.Failures != 0 {
		t.Errorf("status %+v, want the three good requests and no failure", s)
	}
}

// sendHTTP2 sends a request whose fields are changed or added to, and returns the
// status or the frame that ends it.
func sendHTTP2(t *testing.T, addr, change string) string {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	io.WriteString(c, http2.ClientPreface)
	f := http2.NewFramer(c, c)
	f.WriteSettings()
	fields := []hpack.HeaderField{{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "http"}, {Name: ":authority", Value: "h.test"}, {Name: ":path", Value: "/"}}
	for line := range strings.SplitSeq(change, "\n") {
		i := strings.LastIndex(line[:min(len(line), 20)], ": ")
		if i < 0 {
			i = len(line) - 1 // of an empty value
		}
		if line == "" {
			continue
		}
		field := hpack.HeaderField{Name: line[:i], Value: strings.TrimPrefix(line[i+1:], " ")}
		found := false
		for j := range fields {
			if fields[j].Name == field.Name && strings.HasPrefix(field.Name, ":") {
				fields[j], found = field, true
			}
		}
		if !found {
			fields = append(fields, field)
		}
	}
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, field := range fields {
		if field.Name != ":authority" || field.Value != "" {
			enc.WriteField(field)
		}
	}
	f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
	dec := hpack.NewDecoder(4096, nil)
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return err.Error()
		}
		switch frame := frame.(type) {
		case *http2.HeadersFrame:
			list, err := dec.DecodeFull(frame.HeaderBlockFragment())
			if err != nil {
				t.Fatal(err)
			}
			return list[0].Value
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return fmt.Sprint(frame.Header().Type)
		}
	}
}

// TestExpectIsOneThing: what the backend sees is what the proxy does itself.
func TestExpectIsOneThing(t *testing.T) {
	for _, c := range []struct {
		values []string
		want   string
		fails  bool
	}{
		{nil, "", false},
		{[]string{""}, "", false},
		{[]string{"100-continue"}, "100-continue", false},
		{[]string{"100-CONTINUE", " ,100-continue"}, "100-continue", false},
		{[]string{"100-continue, x"}, "", true},
		{[]string{"100-continue", "x"}, "", true},
		{[]string{"y 100-continue"}, "", true},
		{[]string{`"100-continue"`}, "", true},
		{[]string{"100-continue;x"}, "", true},
	} {
		h := http.Header{"Expect": c.values}
		err := setExpect(h, &http.Request{ProtoMajor: 1, ProtoMinor: 1})
		if (err != nil) != c.fails || !c.fails && (h.Get("Expect") != c.want || len(h["Expect"]) > 1) {
			t.Errorf("%q: %v and %q, %v", c.values, h, c.want, err)
		}
		h = http.Header{"Expect": c.values}
		if err := setExpect(h, &http.Request{ProtoMajor: 1}); err != nil || len(h["Expect"]) > 0 {
			t.Errorf("%q over HTTP/1.0: %v, %v", c.values, h, err)
		}
	}
}
