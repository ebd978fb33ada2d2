package http1

import (
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestAppendResponse: what is sent is framed by the length alone, and is read as
// it was meant.
func TestAppendResponse(t *testing.T) {
	for _, c := range []struct {
		method  string
		status  int
		length  int64
		body    string
		want    int64
		trailer http.Header
	}{
		{"GET", 200, 3, "abc", 3, nil},
		{"GET", 200, -1, "3\r\nabc\r\n0\r\n\r\n", -1, http.Header{"X-Sum": nil}},
		{"HEAD", 200, 3, "", 3, nil},
		{"HEAD", 200, -1, "", -1, nil},
		{"GET", 204, -1, "", 0, nil},
		{"GET", 304, 5, "", 0, nil},
	} {
		h := http.Header{"X": {"1", "2"}, "Content-Length": {"9"}, "Transfer-Encoding": {"gzip"}, "Trailer": {"Y"}}
		head, err := AppendResponse(nil, &http.Response{StatusCode: c.status, Header: h, ContentLength: c.length, Trailer: c.trailer}, c.method)
		if err != nil {
			t.Fatal(err)
		}
		r := NewReader(strings.NewReader(string(head) + c.body + "REST"))
		res, err := r.ReadResponse(c.method, 1000)
		if err != nil {
			t.Fatalf("%q: %v", head, err)
		}
		io.Copy(io.Discard, res.Body)
		if res.StatusCode != c.status || res.ContentLength != c.want || len(res.Header["X"]) != 2 || len(res.Trailer) != len(c.trailer) || res.Close {
			t.Errorf("%q is read as %+v", head, res)
		}
		if rest, _ := io.ReadAll(r); string(rest) != "REST" {
			t.Errorf("%q: then %q", head, rest)
		}
	}
	for _, res := range []*http.Response{{StatusCode: 99}, {StatusCode: 200, Header: http.Header{"X": {"a\r\nb"}}}, {StatusCode: 200, Header: http.Header{"X:": {"a"}}}} {
		if head, err := AppendResponse(nil, res, "GET"); err == nil {
			t.Errorf("sent %q", head)
		}
	}
}

// TestFramingIsWrittenOnce: whatever a header says of framing, in whatever letters,
// there is one.
func TestFramingIsWrittenOnce(t *testing.T) {
	header := http.Header{}
	for _, name := range []string{"content-length", "CONTENT-LENGTH", "Content-Length", "transfer-encoding", "Transfer-Encoding", "host", "hOST", "Host", "trailer", "Trailer"} {
		header[name] = []string{"7"}
	}
	req, err := http.NewRequest("POST", "http://h/", strings.NewReader("abc"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	head, err := AppendRequest(nil, req)
	if want := "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n"; err != nil || string(head) != want {
		t.Errorf("%q, %v, want %q", head, err, want)
	}
	delete(header, "Host") // which is a field like any other in a response
	head, err = AppendResponse(nil, &http.Response{StatusCode: 200, ContentLength: 3, Header: header}, "GET")
	if want := "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"; err != nil || string(head) != want {
		t.Errorf("%q, %v, want %q", head, err, want)
	}
	for name := range header {
		if got := string(AppendSafeField(nil, name, header[name])); got != "" && name != http.CanonicalHeaderKey(name) {
			t.Errorf("%s: %q", name, got)
		}
	}
}
