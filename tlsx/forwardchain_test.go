package tlsx

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"reflect"
	"strings"
	"testing"

	"github.com/palisade-go/palisade/internal/testcert"
)

// verified is the state of a connection whose peer proved a chain, root included.
func verified(chain ...*certificate) *tls.ConnectionState {
	return &tls.ConnectionState{PeerCertificates: chain[:1], VerifiedChains: [][]*x509.Certificate{chain}}
}

// TestForwardedFields compares the fields byte for byte with RFC 9440: the leaf in
// one, in the other the intermediates in order, without the root, and only if
// they are asked for. They are of the client's connection, whatever the outgoing
// request says about one.
func TestForwardedFields(t *testing.T) {
	ca := testcert.NewCA(t)
	alice, inner, outer, other := ca.Issue(testcert.Leaf{}).Leaf, ca.Issue(testcert.Leaf{}).Leaf, ca.Issue(testcert.Leaf{}).Leaf, ca.Issue(testcert.Leaf{}).Leaf
	enc := func(c *certificate) string { return encodeCert(c.Raw) }
	for _, c := range []struct {
		name    string
		forward Forward
		tls     *tls.ConnectionState
		want    http.Header
	}{
		{"leaf alone", Forward{Chain: true}, verified(alice, ca.Cert), http.Header{"Client-Cert": {enc(alice)}}},
		{"one intermediate", Forward{Chain: true}, verified(alice, inner, ca.Cert), http.Header{"Client-Cert": {enc(alice)}, "Client-Cert-Chain": {enc(inner)}}},
		{"two intermediates", Forward{Chain: true}, verified(alice, inner, outer, ca.Cert), http.Header{"Client-Cert": {enc(alice)}, "Client-Cert-Chain": {enc(inner) + ", " + enc(outer)}}},
		{"chain not asked for", Forward{}, verified(alice, inner, outer, ca.Cert), http.Header{"Client-Cert": {enc(alice)}}},
		{"a root that is its own leaf", Forward{Chain: true}, verified(ca.Cert), http.Header{"Client-Cert": {enc(ca.Cert)}}},
		{"shown and not verified", Forward{Chain: true}, &tls.ConnectionState{PeerCertificates: chainOf(alice, inner)}, http.Header{}},
		{"without TLS", Forward{Chain: true}, nil, http.Header{}},
	} {
		in, out := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil), httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
		in.TLS, out.TLS = c.tls, verified(other, ca.Cert)
		out.Header.Set("Client-Cert-Chain", enc(other))
		c.forward.Rewrite(&httputil.ProxyRequest{In: in, Out: out})
		if !reflect.DeepEqual(out.Header, c.want) {
			t.Errorf("%s: %v, want %v", c.name, out.Header, c.want)
		}
		// What the server behind makes of it.
		id, err := parseIdentity(out.Header)
		switch certs := verifiedCerts(c.tls); {
		case err != nil:
			t.Errorf("%s: %v", c.name, err)
		case certs == nil && id != nil:
			t.Errorf("%s: an identity from nowhere: %+v", c.name, id)
		case certs != nil && c.forward.Chain && !reflect.DeepEqual(id, newIdentity(certs)):
			t.Errorf("%s: %+v, want %+v", c.name, id, newIdentity(certs))
		}
	}
}

// TestReceiveTrustsLeavesAlone has the balancer's name in an authority above the
// peer, which says nothing about the peer, and the balancer's own certificate
// below another authority, which takes nothing from it.
func TestReceiveTrustsLeavesAlone(t *testing.T) {
	ca := testcert.NewCA(t)
	balancer := ca.Issue(testcert.Leaf{CommonName: "balancer", URIs: []string{balancerURI}}).Leaf
	web, victim := ca.Issue(testcert.Leaf{CommonName: "web"}).Leaf, ca.Issue(testcert.Leaf{CommonName: "victim"}).Leaf
	for _, c := range []struct {
		chain []*certificate
		want  string
	}{
		{chainOf(balancer, web, ca.Cert), "victim"},
		{chainOf(web, balancer, ca.Cert), "web"},
	} {
		r := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
		r.TLS = verified(c.chain...)
		r.Header.Set("Client-Cert", encodeCert(victim.Raw))
		Receive(PeerMatcher{URIs: []string{balancerURI}}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if id, ok := IdentityFrom(r.Context()); !ok || id.CommonName != c.want {
				t.Errorf("peer %s: identity %+v, want %s", c.chain[0].Subject, id, c.want)
			}
		})).ServeHTTP(httptest.NewRecorder(), r)
	}
}

// TestDecodeCertBounds is about what stands around the base64, and how much of it
// there is.
func TestDecodeCertBounds(t *testing.T) {
	ca := testcert.NewCA(t)
	leaf := encodeCert(ca.Issue(testcert.Leaf{}).Leaf.Raw)
	inside := leaf[1 : len(leaf)-1]
	for _, s := range []string{inside, ":" + inside, inside + ":", ":" + inside + ";", ";" + inside + ":", leaf + " ", " " + leaf, ""} {
		if _, err := decodeCert(s); err == nil {
			t.Errorf("%.10q … %q was decoded", s, s[max(0, len(s)-3):])
		}
	}
	sized := func(names int) string {
		l := testcert.Leaf{}
		for i := range names {
			l.Names = append(l.Names, fmt.Sprintf("%s%04d.test", strings.Repeat("x", 50), i))
		}
		return encodeCert(ca.Issue(l).Leaf.Raw)
	}
	small, large := sized(700), sized(900)
	if len(small) < maxIdentityBytes/2 || len(small) > maxIdentityBytes || len(large) <= maxIdentityBytes {
		t.Fatalf("fields of %d and %d bytes, want one below and one above %d", len(small), len(large), maxIdentityBytes)
	}
	if _, err := decodeCert(small); err != nil {
		t.Errorf("a field of %d bytes: %v", len(small), err)
	}
	if _, err := decodeCert(large); err == nil {
		t.Errorf("a field of %d bytes was decoded", len(large))
	}
}
