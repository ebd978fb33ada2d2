package lb

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// smuggling is a request that two recipients may read in two ways, and what
// becomes of it: the statuses that the client gets | what the backend sees. After
// each comes a GET /last. In what is sent, \n ends a line, and [CR] and [LF] are
// alone.
type smuggling struct {
	name, send string
	palisade   string
	nethttp    string // under net/http's server, if that takes it otherwise
}

// hidden is a request inside something that may or may not be a body.
const hidden = "GET /hidden HTTP/1.1\nHost: h\n\n"

func smuggle(fields, body string) string { return "POST /p HTTP/1.1\nHost: h\n" + fields + "\n" + body }

func wire(s string) string {
	return strings.NewReplacer("[CR]", "\r", "[LF]", "\n").Replace(strings.ReplaceAll(s, "\n", "\r\n"))
}

// sized is a body in one chunk.
func sized(body string) string { return fmt.Sprintf("%x\n%s\n0\n\n", len(wire(body)), body) }

func length(body string) string { return fmt.Sprintf("Content-Length: %d\n", len(wire(body))) }

func (s smuggling) run(t *testing.T, m mode) string {
	backend := newStrictBackend(t)
	pool := poolOf(t, PoolConfig{Backends: []BackendConfig{{URL: "http://" + backend.ln.Addr().String()}}}, 0)
	proxy, err := NewProxy(ProxyConfig{Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	front := m.serve(t, frontConf{handler: proxy})
	k := front.dial()
	go io.WriteString(k, wire(s.send+last))
	var statuses []string
	for i := 0; ; {
		if _, err := k.r.Peek(1); err != nil {
			break
		}
		method := http.MethodGet
		if i == 0 && strings.HasPrefix(s.send, "HEAD ") {
			method = http.MethodHead
		}
		res, err := http.ReadResponse(k.r, &http.Request{Method: method})
		if err != nil {
			t.Errorf("the client gets no response: %v", err)
			break
		}
		io.Copy(io.Discard, res.Body)
		if res.StatusCode >= 200 {
			i++
			statuses = append(statuses, fmt.Sprint(res.StatusCode))
		}
	}
	k.Close()
	front.front.Close()
	pool.Close()
	seen := strings.ReplaceAll(backend.seen(), backend.ln.Addr().String(), "BACKEND")
	return strings.TrimSpace(strings.Join(statuses, " ") + " | " + strings.NewReplacer("; GET /last h", "; last", fmt.Sprintf("%q", wire(hidden)), "HIDDEN").Replace(seen))
}

// sure leaves out of an outcome whether the backend got the head of a request
// whose body is refused, which is a question of time.
func sure(outcome string) string {
	return strings.TrimSpace(strings.NewReplacer("broken off; ", "", "broken off", "").Replace(outcome))
}

// TestSmuggling sends what has fooled proxies through both servers.
func TestSmuggling(t *testing.T) {
	for _, s := range smugglings {
		t.Run(strings.ReplaceAll(s.name, " ", "-"), func(t *testing.T) {
			for _, m := range matrixModes {
				want := s.palisade
				if m.name == "nethttp" && s.nethttp != "" {
					want = s.nethttp
				}
				if m.tls {
					continue
				}
				if got := s.run(t, m); sure(got) != sure(want) {
					t.Errorf("%s:\n%q\nbecomes\n%s\nwant\n%s", m.name, s.send, got, want)
				}
			}
		})
	}
}
