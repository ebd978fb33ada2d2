package tlsx

import (
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
)

// Of the PROXY protocol, version 2, section 2.2.6.
const (
	proxyClientTLS      = 0x01 // the client connected over TLS
	proxyClientCertConn = 0x02 // and showed a certificate in this connection
	proxyClientCertSess = 0x04 // or in the session that it resumed
	proxyTypeClientCert = 0x28 // PP2_SUBTYPE_SSL_CLIENT_CERT, DER
)

// parseProxyTLS returns the client's certificate from the value of a
// PP2_TYPE_SSL field, nil for a client that showed none or whose certificate was
// not verified. A certificate needs all three to count: a flag that the client
// showed it, a result that is zero, and the certificate itself; a common name
// alone is nobody's identity.
func parseProxyTLS(value []byte) (*x509.Certificate, error) {
	if len(value) < 5 {
		return nil, fmt.Errorf("tlsx: PROXY TLS field of %d bytes, want at least 5", len(value))
	}
	flags, verify := value[0], binary.BigEndian.Uint32(value[1:5])
	var der []byte
	for rest := value[5:]; len(rest) > 0; {
		if len(rest) < 3 {
			return nil, errors.New("tlsx: PROXY TLS field ends within a subfield")
		}
		kind, size := rest[0], int(binary.BigEndian.Uint16(rest[1:3]))
		if rest = rest[3:]; size > len(rest) {
			return nil, errors.New("tlsx: PROXY TLS field ends within a subfield")
		}
		if kind == proxyTypeClientCert {
			if der != nil {
				return nil, errors.New("tlsx: PROXY TLS field with two certificates")
			}
			der = rest[:size:size]
		}
		rest = rest[size:]
	}
	if flags&proxyClientTLS == 0 || flags&(proxyClientCertConn|proxyClientCertSess) == 0 || verify != 0 || der == nil {
		return nil, nil
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("tlsx: PROXY TLS field: %w", err)
	}
	return cert, nil
}
