package firewall

import (
	"context"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/palisade-go/palisade/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func newFirewall(t testing.TB, c Config) *Firewall {
	t.Helper()
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	f, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func quiet() *log.Logger { return slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) }

func tcpAddr(s string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }

func prefixes(ss ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range ss {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// request makes a request as a server would read it from a peer.
func request(method, target, peer string) *http.Request {
	r := requestAt(method, target, netip.AddrPort{}, netip.MustParseAddrPort("192.0.2.80:443"))
	r.RemoteAddr = peer
	return r
}

func requestAt(method, target string, src, dst netip.AddrPort) *http.Request {
	r := httptest.NewRequest(method, target, nil)
	r.RemoteAddr = src.String()
	local := net.TCPAddrFromAddrPort(dst)
	return r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(local)))
}

// get sends a request through the handler and returns the answer.
func get(f *Firewall, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	f.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ip, _ := f.ClientIP(r)
		w.Header().Set("Client", ip.String())
	})).ServeHTTP(w, r)
	return w
}
