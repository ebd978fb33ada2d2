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

// Receive finds the verified identity of the client and puts it where
// [IdentityFrom] reads it. Over a connection whose peer proved to be the
// trusted proxy it is the one in the Client-Cert field of RFC 9440; a field that
// cannot be parsed is answered with 400. Over any other connection it is the
// peer's own certificate, if that was verified.
//
// The fields are removed in every spelling before next runs, so that nothing
// behind can mistake a forged one for the real one. Among trailers they are
// removed at the end of the body, and of trailers that were not announced none
// is passed on.
func Receive(trusted PeerMatcher, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, direct := PeerIdentity(r)
		if direct && trusted.Match(id.Certificate) {
			var err error
			if id, err = parseIdentity(r.Header); err != nil {
				http.Error(w, "malformed Client-Cert", http.StatusBadRequest)
				return
			}
		}
		next.ServeHTTP(w, withIdentity(r, id))
	})
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
