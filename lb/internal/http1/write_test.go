package http1

import (
	"net/http"
	"strings"
	"testing"
)

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
	for name := range header {
		if got := string(AppendSafeField(nil, name, header[name])); got != "" && name != http.CanonicalHeaderKey(name) {
			t.Errorf("%s: %q", name, got)
		}
	}
}
