package tlsx

import (
	"encoding/base64"
	"net/http"
	"net/http/httputil"
	"strings"
)

// Forward passes the verified identity of a client on to the server behind, in
// the Client-Cert field of RFC 9440. Its zero value is ready to use. It is safe
// for concurrent use.
//
// Give its methods to a proxy that runs hooks after it has removed hop-by-hop
// fields: lb.ProxyConfig, or httputil.ReverseProxy.Rewrite.
type Forward struct {
	// Chain also sends Client-Cert-Chain, the certificates after the client's
	// own.
	Chain bool
}

// Rewrite removes every spelling of the identity fields from the outgoing
// request and sets them from the client's verified certificate, if it has one.
func (f Forward) Rewrite(pr *httputil.ProxyRequest) {
	stripIdentity(pr.Out.Header)
	stripIdentity(pr.Out.Trailer)
	certs := verifiedCerts(pr.In.TLS)
	if certs == nil {
		return
	}
	pr.Out.Header.Set("Client-Cert", encodeCert(certs[0].Raw))
	if f.Chain && len(certs) > 1 {
		chain := make([]string, len(certs)-1)
		for i, c := range certs[1:] {
			chain[i] = encodeCert(c.Raw)
		}
		pr.Out.Header.Set("Client-Cert-Chain", strings.Join(chain, ", "))
	}
}

// ModifyResponse keeps caches right: a response that varies with the client's
// certificate varies, for the client, with something that no field of its
// request shows (RFC 9440, section 3.2).
func (f Forward) ModifyResponse(res *http.Response) error {
	for _, v := range res.Header.Values("Vary") {
		for name := range strings.SplitSeq(v, ",") {
			if isIdentityField(strings.TrimSpace(name)) {
				res.Header.Set("Vary", "*")
				return nil
			}
		}
	}
	return nil
}

// RefuseForged answers 400 to requests that carry an identity field in any
// spelling, or announce one as a trailer. A proxy strips them in any case; this
// tells the client, for those who would rather know. It belongs before the proxy.
func RefuseForged(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if hasIdentityField(r.Header) || hasIdentityField(r.Trailer) {
			http.Error(w, "the request claims a client certificate in a header", http.StatusBadRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// encodeCert is a byte sequence of RFC 8941, section 3.3.5.
func encodeCert(der []byte) string {
	return ":" + base64.StdEncoding.EncodeToString(der) + ":"
}

// isIdentityField says whether some server takes the name for one of the
// fields that carry an identity. Case never matters, and servers that hand
// fields on as CGI variables take underscores for hyphens, some of them any
// byte that is neither letter nor digit.
func isIdentityField(name string) bool {
	switch len(name) {
	case len("client-cert"):
		return spells(name, "client-cert")
	case len("client-cert-chain"):
		return spells(name, "client-cert-chain")
	case len("x-forwarded-client-cert"):
		return spells(name, "x-forwarded-client-cert")
	}
	return false
}

// spells compares names of the same length without allocating: it is asked
// about every field of every request.
func spells(name, field string) bool {
	for i := range len(field) {
		c := name[i]
		switch {
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		case (c < 'a' || c > 'z') && (c < '0' || c > '9'):
			c = '-'
		}
		if c != field[i] {
			return false
		}
	}
	return true
}

func hasIdentityField(h http.Header) bool {
	for name := range h {
		if isIdentityField(name) {
			return true
		}
	}
	return false
}

func stripIdentity(h http.Header) {
	for name := range h {
		if isIdentityField(name) {
			delete(h, name)
		}
	}
}
