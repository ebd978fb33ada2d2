package tlsx

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/palisade-go/palisade/internal/memnet"
	"github.com/palisade-go/palisade/internal/testcert"
)

// forger makes up fields that somebody might take for an identity.
type forger struct {
	lot    *rand.Rand
	values []string
}

// name spells one of the fields: letters in either case, and any byte that may
// be in a name in place of each hyphen. For HTTP/2 names are in lower case.
func (f *forger) name(h2 bool) string {
	out := []byte([]string{"client-cert", "client-cert", "client-cert-chain", "x-forwarded-client-cert"}[f.lot.IntN(4)])
	for i, c := range out {
		switch {
		case c == '-' && f.lot.IntN(2) == 0:
			out[i] = "-_.!~*'|+^`&%$#"[f.lot.IntN(15)]
		case c != '-' && !h2 && f.lot.IntN(3) == 0:
			out[i] -= 'a' - 'A'
		}
	}
	return string(out)
}

func (f *forger) value() string { return f.values[f.lot.IntN(len(f.values))] }

// forgeriesPerRequest is how many fields of a request are forged.
const forgeriesPerRequest = 40

// http1 is a request with forged fields, lists of them and trailers.
func (f *forger) http1(host string) string {
	var head, trailers strings.Builder
	fmt.Fprintf(&head, "POST / HTTP/1.1\r\nHost: %s\r\nTransfer-Encoding: chunked\r\n", host)
	for range forgeriesPerRequest {
		name, kind := f.name(false), f.lot.IntN(5)
		if trailers.Len() > 1500 && (kind == 1 || kind == 2) {
			kind = 3 // net/http refuses trailers of more than 4 KiB
		}
		switch kind {
		case 0:
			fmt.Fprintf(&head, "Connection: keep-alive, %s\r\n%s: %s\r\n", f.name(false), name, f.value())
		case 1:
			fmt.Fprintf(&head, "Trailer: %s\r\n", name)
			fmt.Fprintf(&trailers, "%s: %s\r\n", name, f.value())
		case 2:
			fmt.Fprintf(&trailers, "%s: %s\r\n", name, f.value())
		default:
			fmt.Fprintf(&head, "%s: %s\r\n", name, f.value())
		}
	}
	return head.String() + "\r\n4\r\nbody\r\n0\r\n" + trailers.String() + "\r\n"
}

func (f *forger) http2(t *testing.T, host string) *http.Request {
	r, err := http.NewRequestWithContext(t.Context(), "POST", "https://"+host+"/", io.MultiReader(strings.NewReader("body")))
	if err != nil {
		t.Fatal(err)
	}
	r.Trailer = make(http.Header)
	for range forgeriesPerRequest {
		into := r.Header
		if f.lot.IntN(4) == 0 {
			into = r.Trailer
		}
		name := f.name(true)
		into[name] = append(into[name], f.value())
	}
	return r
}

// door is a way to the application, and who one is that comes through it.
type door struct {
	ln   *memnet.Listener
	host string
	cert *tls.Certificate
	want string
}

// TestForgeries sends at least 100,000 forged fields over HTTP/1.1 and HTTP/2,
// to the proxy and past it, as somebody and as nobody: none is believed or
// arrives, and nobody's own identity is lost.
func TestForgeries(t *testing.T) { forge(t, 100_000, 3*time.Minute) }

// forge sends so many forged fields, and fails if that takes longer than patience.
func forge(t *testing.T, attempts int64, patience time.Duration) {
	s := newStack(t, Forward{Chain: true}, false)
	alice := s.clientCA.Issue(testcert.Leaf{CommonName: "alice"})
	web2 := s.innerCA.Issue(testcert.Leaf{CommonName: "web2", URIs: []string{"spiffe://test/web2"}})
	victim := encodeCert(s.clientCA.Issue(testcert.Leaf{CommonName: "victim"}).Leaf.Raw)
	values := []string{victim, victim, victim + ", " + victim, `"` + victim + `"`, "Subject=\"CN=victim\"", "", encodeCert(s.innerCA.Cert.Raw)}
	doors := []door{{s.edge, "www.test", nil, ""}, {s.edge, "www.test", &alice, "alice"}, {s.behind, "web.test", nil, ""}, {s.behind, "web.test", &web2, "web2"}}
	var done, over2, refused atomic.Int64
	deadline := time.Now().Add(patience)
	var wg sync.WaitGroup
	for i, d := range doors {
		f := func(seed uint64) *forger {
			return &forger{rand.New(rand.NewPCG(seed, uint64(i))), values}
		}
		more := func() bool { return !t.Failed() && done.Load() < attempts && time.Now().Before(deadline) }
		check := func(res *http.Response, err error) (again bool) {
			if err != nil {
				t.Errorf("door %d: %v", i, err)
				return false
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			done.Add(forgeriesPerRequest)
			if res.ProtoMajor == 2 {
				over2.Add(forgeriesPerRequest)
			}
			if res.StatusCode == http.StatusBadRequest {
				refused.Add(1)
				return !res.Close
			}
			var got seen
			if err != nil || json.Unmarshal(body, &got) != nil || got.Identity != d.want || len(got.Fields) > 0 {
				t.Errorf("door %d: %s, the application saw %q, want %q: %v", i, res.Status, body, d.want, err)
			}
			return !res.Close
		}
		wg.Go(func() {
			f := f(1)
			for more() {
				plain, err := d.ln.DialContext(t.Context(), "tcp", "")
				if err != nil {
					t.Error(err)
					return
				}
				forgeHTTP1(tls.Client(plain, s.clientTLS(d.host, d.cert)), f, d.host, more, check)
			}
		})
		wg.Go(func() {
			f := f(2)
			tr := &http.Transport{TLSClientConfig: s.clientTLS("", d.cert), DialContext: d.ln.DialContext, ForceAttemptHTTP2: true}
			defer tr.CloseIdleConnections()
			for more() {
				check(tr.RoundTrip(f.http2(t, d.host)))
			}
		})
	}
	wg.Wait()
	t.Logf("%d forged fields, %d of them over HTTP/2, %d requests refused", done.Load(), over2.Load(), refused.Load())
	if n, h2 := done.Load(), over2.Load(); n < attempts || h2 < attempts/10 || n-h2 < attempts/10 {
		t.Error("too few to show anything")
	}
	if refused.Load()*forgeriesPerRequest > done.Load()/2 {
		t.Error("most requests did not get to where forging matters")
	}
}

// forgeHTTP1 uses one connection for as long as it lasts.
func forgeHTTP1(conn net.Conn, f *forger, host string, more func() bool, check func(*http.Response, error) bool) {
	defer conn.Close()
	r := bufio.NewReader(conn)
	for again := true; again && more(); {
		if _, err := io.WriteString(conn, f.http1(host)); err != nil {
			check(nil, err)
			return
		}
		again = check(http.ReadResponse(r, nil))
	}
}
