package lb

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// wireCase is what a client sends on one connection, and what a handler does
// with it. Whatever comes back must be the same from both servers.
type wireCase struct {
	name    string
	send    string // \n ends a line; Host is added where it says HOST
	handler http.HandlerFunc
	want    string // a part of what must come back
	// own marks an answer that the server makes: then the status counts, and
	// whether the connection goes on.
	own bool
	// differs is why lb.Server answers otherwise; then it must have this.
	differs, palisade string
}

// last is sent after each case: if its answer comes, the connection has lived on.
const last = "GET /last HTTP/1.1\nHost: h\nConnection: close\n\n"

// run sends a case and returns all that comes back.
func (c wireCase) run(t *testing.T, m mode) string {
	s := m.serve(t, frontConf{maxHeaderBytes: 8 << 10, handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/last" {
			io.WriteString(w, "last")
			return
		}
		c.handler(w, r)
	})})
	k := s.dial()
	send := strings.ReplaceAll(c.send, "HOST", "HTTP/1.1\nHost: h") + last
	go io.WriteString(k, strings.ReplaceAll(send, "\n", "\r\n"))
	return transcript(k, methods(send), c.own)
}

// methods are those of the requests in what is sent.
func methods(send string) (all []string) {
	for line := range strings.SplitSeq(send, "\n") {
		if method, rest, ok := strings.Cut(line, " "); ok && strings.Contains(rest, " HTTP/") {
			all = append(all, method)
		}
	}
	return all
}

// transcript reads responses to the end of the connection and writes them in a
// form in which equal ones are equal. The dates differ.
func transcript(k *conn, methods []string, own bool) string {
	var s strings.Builder
	for _, method := range append(methods, "GET") {
		for {
			if _, err := k.r.Peek(1); err != nil {
				return s.String() + "END\n"
			}
			res, err := http.ReadResponse(k.r, &http.Request{Method: method})
			if err != nil {
				fmt.Fprintf(&s, "BROKEN %v\n", err)
				return s.String()
			}
			describe(&s, res, own)
			if res.StatusCode >= 200 || res.StatusCode == http.StatusSwitchingProtocols {
				break
			}
		}
	}
	rest, err := io.ReadAll(k.r)
	fmt.Fprintf(&s, "REST %q %v\n", rest, err)
	return s.String()
}

func describe(s *strings.Builder, res *http.Response, own bool) {
	body, err := io.ReadAll(res.Body)
	if own && res.StatusCode >= 400 {
		fmt.Fprintf(s, "%s %d\n", res.Proto, res.StatusCode)
		return
	}
	fmt.Fprintf(s, "%s %s length %d %q close %v\n", res.Proto, res.Status, res.ContentLength, res.TransferEncoding, res.Close)
	for _, name := range slices.Sorted(maps.Keys(res.Header)) {
		if name == "Date" && len(res.Header[name]) == 1 {
			if _, err := time.Parse(http.TimeFormat, res.Header.Get(name)); err == nil {
				s.WriteString("  Date\n")
				continue
			}
		}
		fmt.Fprintf(s, "  %s: %q\n", name, res.Header[name])
	}
	if len(body) > 200 {
		body = fmt.Appendf(nil, "%.100s… %d bytes …%s", body, len(body), body[len(body)-50:])
	}
	fmt.Fprintf(s, "  body %q %v trailer %q\n", body, err, res.Trailer)
}

// TestServersAgree sends each case to both servers.
func TestServersAgree(t *testing.T) {
	names := make(map[string]bool)
	for _, cases := range [][]wireCase{responseCases, requestCases, framingCases, fileCases} {
		for _, c := range cases {
			if names[c.name] {
				t.Fatalf("two cases are named %q", c.name)
			}
			names[c.name] = true
			t.Run(strings.ReplaceAll(c.name, " ", "-"), func(t *testing.T) { c.test(t) })
		}
	}
}

func (c wireCase) test(t *testing.T) {
	var want string
	for _, m := range matrixModes {
		got := c.run(t, m)
		isOurs := strings.HasPrefix(m.name, "palisade")
		switch {
		case want == "":
			if want = got; !strings.Contains(got, c.want) {
				t.Errorf("net/http answers\n%s\nwant %q in it", got, c.want)
			}
		case isOurs && c.differs != "":
			if got == want {
				t.Errorf("%s: no difference any more, though %s", m.name, c.differs)
			}
			if !strings.Contains(got, c.palisade) {
				t.Errorf("%s answers\n%s\nwant %q in it", m.name, got, c.palisade)
			}
		case got != want:
			t.Errorf("%s answers\n%s\nwant\n%s", m.name, got, want)
		}
	}
}

// dump answers with what the handler got.
func dump(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	fmt.Fprintf(w, "%s %q %q %s %d.%d host %q close %v length %d %q\n", r.Method, r.RequestURI, r.URL, r.Proto, r.ProtoMajor, r.ProtoMinor, r.Host, r.Close, r.ContentLength, r.TransferEncoding)
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		fmt.Fprintf(w, "%s: %q\n", name, r.Header[name])
	}
	fmt.Fprintf(w, "body %q %v trailer %q\n", body, err, r.Trailer)
}

// wordy answers more than any server holds back.
func wordy(w http.ResponseWriter, _ *http.Request) {
	for i := range 100 {
		fmt.Fprintf(w, "%099d\n", i)
	}
}

func hello(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }
