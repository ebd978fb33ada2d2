package tlsx

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"

	"github.com/palisade-go/palisade/internal/testcert"
)

// proxyTLS encodes a PP2_TYPE_SSL value: flags, result and subfields.
func proxyTLS(flags byte, verify uint32, subfields ...[]byte) []byte {
	out := binary.BigEndian.AppendUint32([]byte{flags}, verify)
	for _, s := range subfields {
		out = append(out, s...)
	}
	return out
}

func subfield(kind byte, value []byte) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{kind}, uint16(len(value))), value...)
}

type proxyKey struct{}

// TestReceiverProxyTLS also shows that the fields of a request that came through
// such a proxy are the client's own, though the peer be a trusted one.
func TestReceiverProxyTLS(t *testing.T) {
	ca := testcert.NewCA(t)
	alice, victim := ca.Issue(testcert.Leaf{CommonName: "alice"}).Leaf, ca.Issue(testcert.Leaf{CommonName: "victim"}).Leaf
	balancer := ca.Issue(testcert.Leaf{CommonName: "balancer", URIs: []string{balancerURI}}).Leaf
	cert := subfield(proxyTypeClientCert, alice.Raw)
	cn, version := subfield(0x22, []byte("alice")), subfield(0x21, []byte("TLSv1.3"))
	h := Receiver{
		Trusted: PeerMatcher{URIs: []string{balancerURI}},
		ProxyTLS: func(ctx context.Context) ([]byte, bool) {
			v, ok := ctx.Value(proxyKey{}).([]byte)
			return v, ok
		},
	}.Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.Header) > 0 {
			t.Errorf("header %v", r.Header)
		}
		if id, ok := IdentityFrom(r.Context()); ok {
			w.Header().Set("Name", id.CommonName)
		}
	}))
	for _, c := range []struct {
		name  string
		value []byte // nil: no header
		peer  *certificate
		want  string
	}{
		{"this connection", proxyTLS(1|2, 0, version, cn, cert), nil, "alice"},
		{"resumed session", proxyTLS(1|4, 0, cert, cn), nil, "alice"},
		{"inside mutual TLS", proxyTLS(1|2|4, 0, cert), balancer, "alice"},
		{"without a certificate", proxyTLS(1, 0, version), nil, ""},
		{"without a certificate, inside mutual TLS", proxyTLS(1, 0, version), balancer, ""},
		{"no flag for it", proxyTLS(1, 0, cert), nil, ""},
		{"no TLS", proxyTLS(2|4, 0, cert), nil, ""},
		{"not verified", proxyTLS(1|2, 1, cert), nil, ""},
		{"not verified, an error above 255", proxyTLS(1|2, 1<<8, cert), nil, ""},
		{"not verified, an error above 65535", proxyTLS(1|2, 1<<24, cert), nil, ""},
		{"a name alone", proxyTLS(1|2, 0, cn), nil, ""},
		{"two certificates", proxyTLS(1|2, 0, cert, cert), nil, "400"},
		{"rubbish", proxyTLS(1|2, 0, subfield(proxyTypeClientCert, []byte("x"))), nil, "400"},
		{"empty", []byte{}, nil, "400"},
		{"flags alone", []byte{1 | 2}, nil, "400"},
		{"cut off in the result", []byte{1 | 2, 0, 0, 0}, nil, "400"},
		{"cut off", proxyTLS(1|2, 0, cert[:len(cert)-1]), nil, "400"},
		{"cut off in a head", proxyTLS(1|2, 0, cert, []byte{1, 0}), nil, "400"},
		{"no header, trusted peer", nil, balancer, "victim"},
		{"no header, other peer", nil, alice, "alice"},
		{"no header, no peer", nil, nil, ""},
	} {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
		r.Header.Set("Client-Cert", encodeCert(victim.Raw))
		if c.value != nil {
			r = r.WithContext(context.WithValue(r.Context(), proxyKey{}, c.value))
		}
		if c.peer != nil {
			r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{chainOf(c.peer, ca.Cert)}}
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if got := w.Header().Get("Name"); c.want == "400" && w.Code != 400 || c.want != "400" && (w.Code != 200 || got != c.want) {
			t.Errorf("%s: %d %q, want %q", c.name, w.Code, got, c.want)
		}
	}
}

// TestSameIdentityThreeWays has the same client come directly, through a proxy
// that sets Client-Cert, and through one that sends a PROXY protocol header.
func TestSameIdentityThreeWays(t *testing.T) {
	ca := testcert.NewCA(t)
	alice := ca.Issue(testcert.Leaf{CommonName: "alice", Names: []string{"alice.test"}, URIs: []string{"spiffe://test/alice"}}).Leaf
	balancer := ca.Issue(testcert.Leaf{CommonName: "balancer", URIs: []string{balancerURI}}).Leaf
	var got []*Identity
	h := Receiver{
		Trusted: PeerMatcher{URIs: []string{balancerURI}},
		ProxyTLS: func(ctx context.Context) ([]byte, bool) {
			v, ok := ctx.Value(proxyKey{}).([]byte)
			return v, ok
		},
	}.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		id, _ := IdentityFrom(r.Context())
		got = append(got, id)
	}))
	over := func(peer *certificate) *http.Request {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
		r.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{chainOf(peer, ca.Cert)}}
		return r
	}
	direct, header, proxied := over(alice), over(balancer), over(balancer)
	header.Header.Set("Client-Cert", encodeCert(alice.Raw))
	proxied = proxied.WithContext(context.WithValue(proxied.Context(), proxyKey{}, proxyTLS(1|2, 0, subfield(proxyTypeClientCert, alice.Raw))))
	for _, r := range []*http.Request{direct, header, proxied} {
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	want := newIdentity(chainOf(alice))
	for i, id := range got {
		if id == nil || !reflect.DeepEqual(id, want) {
			t.Errorf("way %d: %+v, want %+v", i, id, want)
		}
	}
	if len(got) != 3 || want.URIs[0] != "spiffe://test/alice" {
		t.Errorf("%d ways, identity %+v", len(got), want)
	}
}

// FuzzParseProxyTLS compares with a slower reading of the same.
func FuzzParseProxyTLS(f *testing.F) {
	leaf := testcert.NewCA(f).Issue(testcert.Leaf{}).Leaf
	f.Add(proxyTLS(3, 0, subfield(0x22, []byte("a")), subfield(proxyTypeClientCert, leaf.Raw)))
	f.Add(proxyTLS(5, 0, subfield(proxyTypeClientCert, leaf.Raw), []byte{1, 2}))
	f.Add(proxyTLS(3, 1, subfield(proxyTypeClientCert, leaf.Raw)))
	f.Fuzz(func(t *testing.T, value []byte) {
		cert, err := parseProxyTLS(value)
		if cert == nil {
			return
		}
		if err != nil {
			t.Error("both a certificate and an error")
		}
		encoded, found := subfield(proxyTypeClientCert, cert.Raw), false
		for i := 5; i < len(value); i += 3 + int(binary.BigEndian.Uint16(value[i+1:])) {
			found = found || string(value[i:min(len(value), i+len(encoded))]) == string(encoded)
		}
		if !found || value[0]&1 == 0 || value[0]&6 == 0 || binary.BigEndian.Uint32(value[1:]) != 0 {
			t.Errorf("%x gave the identity of %x", value, cert.Raw)
		}
	})
}
