package tlsx

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// maxIdentityBytes bounds what is decoded of a field that carries certificates.
const maxIdentityBytes = 64 << 10

// Receive is [Receiver.Handler] of a Receiver that trusts the proxies given.
func Receive(trusted PeerMatcher, next http.Handler) http.Handler {
	return Receiver{Trusted: trusted}.Handler(next)
}

// Receiver finds the verified identity of the client and puts it where
// [IdentityFrom] reads it, whichever way it came:
//
//   - over a connection whose peer proved to be a trusted proxy, in the
//     Client-Cert field of RFC 9440;
//   - over a connection that began with a PROXY protocol header, in its TLS
//     field;
//   - over any other connection, as the peer's own certificate.
//
// Its zero value knows no proxies. It is safe for concurrent use.
type Receiver struct {
	// Trusted are the proxies whose Client-Cert fields are believed. The zero
	// value believes none.
	Trusted PeerMatcher
	// ProxyTLS returns the value of the PP2_TYPE_SSL field (PROXY protocol,
	// version 2, section 2.2.6) of the header that the request's connection
	// began with, and whether there was one. The context is the request's, into
	// which http.Server.ConnContext can put the connection. It must report only
	// headers that were accepted from a trusted address or over mutual TLS.
	//
	// Such a proxy passes on bytes: all fields of the request are the client's
	// own, so Client-Cert counts for nothing there, whoever the peer is. Nil
	// stands for no header.
	ProxyTLS func(context.Context) (value []byte, ok bool)
}

// Handler runs next with the identity. Where a proxy's word cannot be parsed the
// answer is 400.
//
// The Client-Cert fields are removed in every spelling before next runs, so that
// nothing behind can mistake a forged one for the real one. Among trailers they
// are removed at the end of the body, and of trailers that were not announced
// none is passed on.
func (rc Receiver) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, err := rc.identity(r)
		if err != nil {
			http.Error(w, "malformed client certificate from the proxy", http.StatusBadRequest)
			return
		}
		next.ServeHTTP(w, withIdentity(r, id))
	})
}

// identity returns nil for a client without one.
func (rc Receiver) identity(r *http.Request) (*Identity, error) {
	if rc.ProxyTLS != nil {
		if value, ok := rc.ProxyTLS(r.Context()); ok {
			cert, err := parseProxyTLS(value)
			if err != nil || cert == nil {
				return nil, err
			}
			return newIdentity([]*x509.Certificate{cert}), nil
		}
	}
	certs := verifiedCerts(r.TLS)
	switch {
	case certs == nil:
		return nil, nil
	case rc.Trusted.Match(certs[0]):
		return parseIdentity(r.Header)
	}
	return newIdentity(certs), nil
}

// withIdentity returns the request with the identity in its context and
// without the fields. The request is copied only when there is something to
// change, and its header never changes under whoever else holds it.
func withIdentity(r *http.Request, id *Identity) *http.Request {
	// net/http adds trailers to the request it made, and to a map that copies
	// share if some were announced.
	forged, trailers := hasIdentityField(r.Header), len(r.Trailer) > 0 || len(r.TransferEncoding) > 0
	if id == nil && !forged && !trailers {
		return r
	}
	ctx := r.Context()
	if id != nil {
		ctx = context.WithValue(ctx, identityKey{}, id)
	}
	out := r.WithContext(ctx)
	if forged {
		out.Header = r.Header.Clone()
		stripIdentity(out.Header)
	}
	if len(out.Trailer) > 0 {
		stripIdentity(out.Trailer)
		out.Body = &trailerGuard{out.Body, out.Trailer}
	}
	return out
}

// trailerGuard removes the identity fields from the trailers as soon as these
// are known, before the reader of the body can know that they are.
type trailerGuard struct {
	io.ReadCloser
	trailer http.Header
}

func (g *trailerGuard) Read(p []byte) (int, error) {
	n, err := g.ReadCloser.Read(p)
	if err != nil {
		stripIdentity(g.trailer)
	}
	return n, err
}

// Close may read the rest of the body, and with it the trailers.
func (g *trailerGuard) Close() error {
	err := g.ReadCloser.Close()
	stripIdentity(g.trailer)
	return err
}

// parseIdentity reads the fields that a trusted proxy set. A request without
// them is one of a client without a certificate.
func parseIdentity(h http.Header) (*Identity, error) {
	values := h["Client-Cert"]
	if len(values) == 0 {
		if len(h["Client-Cert-Chain"]) > 0 {
			return nil, errors.New("tlsx: Client-Cert-Chain without Client-Cert")
		}
		return nil, nil
	}
	if len(values) > 1 {
		return nil, fmt.Errorf("tlsx: %d Client-Cert fields, want one", len(values))
	}
	leaf, err := decodeCert(values[0])
	if err != nil {
		return nil, err
	}
	certs := []*x509.Certificate{leaf}
	for _, v := range h["Client-Cert-Chain"] {
		for item := range strings.SplitSeq(v, ",") {
			c, err := decodeCert(strings.Trim(item, " \t"))
			if err != nil {
				return nil, err
			}
			if certs = append(certs, c); len(certs) > 16 {
				return nil, errors.New("tlsx: chain of more than 16 certificates")
			}
		}
	}
	return newIdentity(certs), nil
}

func decodeCert(s string) (*x509.Certificate, error) {
	if len(s) > maxIdentityBytes || len(s) < 2 || s[0] != ':' || s[len(s)-1] != ':' {
		return nil, errors.New("tlsx: Client-Cert is not one byte sequence of RFC 8941")
	}
	der, err := base64.StdEncoding.Strict().DecodeString(s[1 : len(s)-1])
	if err != nil || strings.ContainsAny(s, "\r\n") { // which DecodeString skips
		return nil, errors.New("tlsx: Client-Cert is not base64")
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("tlsx: Client-Cert: %w", err)
	}
	return c, nil
}
