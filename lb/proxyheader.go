package lb

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
)

// ErrProxyHeader is what every malformed PROXY protocol header is.
var ErrProxyHeader = errors.New("lb: malformed PROXY protocol header")

// ProxyVersion is a version of the PROXY protocol.
type ProxyVersion int

const (
	// ProxyV1 is the line of text, which has addresses only.
	ProxyV1 ProxyVersion = 1
	// ProxyV2 is the binary form, which tells of TLS, too.
	ProxyV2 ProxyVersion = 2
)

func (v ProxyVersion) valid() bool { return v == ProxyV1 || v == ProxyV2 }

// ProxyHeader is what a proxy says about a connection before that begins: the
// header of HAProxy's PROXY protocol (proxy-protocol.txt of HAProxy, 2020 and
// later). It is plain data; the zero value is a header of version 2 that knows
// nothing. Version 1 has no more than Source and Destination.
type ProxyHeader struct {
	// Version is the form. 0 means ProxyV2.
	Version ProxyVersion
	// Local says that the proxy speaks for itself, as it does in a health check.
	// All else is unset then.
	Local bool
	// Source is the client, and Destination what it has connected to. Not valid
	// means that the proxy does not know, or that they are no IP addresses. IPv4
	// addresses are never mapped into IPv6.
	Source, Destination netip.AddrPort
	// Datagram says that the client speaks UDP.
	Datagram bool
	// ALPN is the protocol within TLS, such as "h2". Empty means unknown.
	ALPN string
	// Authority is the host name that the client has asked for, as in TLS's
	// server name indication. Empty means unknown.
	Authority string
	// UniqueID names the connection, in 128 bytes at most. Empty means that it has
	// no name.
	UniqueID []byte
	// TLS is about the TLS between client and proxy. Nil means that nothing is
	// known, or that there is none.
	TLS *ProxyTLS
	// Extra are the fields of other types, 64 at most.
	Extra []ProxyTLV
}

// ProxyTLS is what a [ProxyHeader] says about TLS. It is plain data. All of it is
// what the proxy says; the names in it are a client's own as long as Verified is
// false.
type ProxyTLS struct {
	// Active says that the client speaks TLS.
	Active bool
	// CertConn says that the client has shown a certificate in this connection,
	// and CertSession that it has in the session which this one resumes.
	CertConn, CertSession bool
	// Verify is 0 if the client has shown a certificate that was verified.
	Verify uint32
	// Version is as OpenSSL names it, such as "TLSv1.3". Empty means unknown.
	Version string
	// CommonName is that of the client's certificate. Empty means unknown.
	CommonName string
	// Cipher is as OpenSSL names it. Empty means unknown.
	Cipher string
	// SignatureAlgorithm and KeyAlgorithm are of the certificate that the proxy
	// has shown, such as "SHA256" and "RSA2048". Empty means unknown.
	SignatureAlgorithm, KeyAlgorithm string
	// Group is that of the key exchange, and SignatureScheme that of the
	// handshake. Empty means unknown.
	Group, SignatureScheme string
	// ClientCert is the client's certificate, in DER. Empty means unknown.
	ClientCert []byte
	// Extra are the fields of other types, 64 at most.
	Extra []ProxyTLV
}

// Verified says whether the client has shown a certificate and it was found
// good.
func (t *ProxyTLS) Verified() bool {
	return t != nil && t.Active && (t.CertConn || t.CertSession) && t.Verify == 0
}

// ProxyTLV is a field of a [ProxyHeader].
type ProxyTLV struct {
	Type  byte
	Value []byte
}

// ParseProxyHeader reads the header at the beginning of data, of either version,
// and returns its length. The error is [io.ErrUnexpectedEOF] if data may be the
// beginning of a header that is longer, and otherwise wraps [ErrProxyHeader]. A
// checksum is verified. Addresses of Unix sockets are passed over, as if they
// were not known.
func ParseProxyHeader(data []byte) (*ProxyHeader, int, error) {
	if isPrefix(data, proxyV1Start) {
		return parseProxyV1(data)
	}
	if isPrefix(data, proxyV2Signature) {
		return parseProxyV2(data)
	}
	return nil, 0, badProxy("it begins like neither version")
}

// isPrefix says whether one of the two is a prefix of the other.
func isPrefix(data []byte, start string) bool {
	n := min(len(data), len(start))
	return string(data[:n]) == start[:n]
}

func badProxy(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProxyHeader, fmt.Sprintf(format, args...))
}

// Append appends the header in the form of its Version. It is an error if the
// version is unknown, a field is longer than the form allows or has a type that
// is none of Extra's, or all together are too long.
func (h *ProxyHeader) Append(dst []byte) ([]byte, error) {
	switch h.Version {
	case ProxyV1:
		return h.appendV1(dst), nil
	case ProxyV2, 0:
		return h.appendV2(dst)
	}
	return dst, fmt.Errorf("lb: ProxyHeader.Version is %d, want 1 or 2", h.Version)
}

// unmapped is p without the form of IPv4 addresses that passes by rules for IPv4.
func unmapped(p netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
}

// knows says whether the header has addresses.
func (h *ProxyHeader) knows() bool {
	return !h.Local && h.Source.IsValid() && h.Destination.IsValid()
}

// maxProxyHeader is the length of the longest header of version 2.
const maxProxyHeader = 16 + 0xffff

// readProxyHeader returns what comes after the header, too, as far as it came
// with it. Whatever the peer does, it keeps no more than maxProxyHeader bytes and
// a read's worth.
func readProxyHeader(conn net.Conn) (h *ProxyHeader, rest []byte, err error) {
	buf := make([]byte, 0, 512)
	for {
		if len(buf) == cap(buf) {
			buf = append(make([]byte, 0, min(2*cap(buf), maxProxyHeader+1)), buf...)
		}
		n, readErr := conn.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if n > 0 {
			h, size, err := ParseProxyHeader(buf)
			if err == nil {
				return h, buf[size:], nil
			}
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				return nil, nil, err
			}
		}
		if readErr != nil {
			return nil, nil, fmt.Errorf("lb: reading the PROXY protocol header: %w", readErr)
		}
	}
}
