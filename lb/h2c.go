package lb

import "net/http"

// schemeH2C is the scheme of backends that speak HTTP/2 without TLS, known in
// advance (RFC 9113, section 3.3).
const schemeH2C = "h2c"

// h2cTransport makes the connections to such a backend.
type h2cTransport struct{ *http.Transport }

func (p *Pool) newH2CTransport() h2cTransport {
	t := p.newTransport()
	t.Protocols = new(http.Protocols)
	t.Protocols.SetUnencryptedHTTP2(true)
	return h2cTransport{t}
}

// RoundTrip implements [http.RoundTripper].
func (t h2cTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	out := new(*req)
	out.URL = new(*req.URL)
	out.URL.Scheme = "http"
	if len(req.Header["Connection"]) > 0 || len(req.Header["Upgrade"]) > 0 {
		// HTTP/2 has none (RFC 9113, section 8.2.2).
		out.Header = req.Header.Clone()
		delete(out.Header, "Connection")
		delete(out.Header, "Upgrade")
	}
	return t.Transport.RoundTrip(out)
}
