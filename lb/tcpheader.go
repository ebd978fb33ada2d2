package lb

import (
	"crypto/tls"
	"slices"
	"strings"
)

// outgoingHeader tells a backend what is known of the client.
func (c *tcpConn) outgoingHeader() *ProxyHeader {
	h := new(ProxyHeader)
	if in := c.event.Header; in != nil {
		h = in.clone()
	}
	h.Version, h.Local, h.Datagram = c.proxy.conf.ProxyOut, false, false
	if !h.knows() {
		h.Source, h.Destination = c.addr, addrPortOf(c.event.Local)
	}
	if c.event.ServerName != "" {
		h.Authority = c.event.ServerName
	}
	if t := unwrap[tlsState](c.client); t != nil {
		state := t.ConnectionState()
		h.TLS, h.ALPN = proxyTLSOf(&state), state.NegotiatedProtocol
	}
	return h
}

// clone is what can be changed without the original.
func (h *ProxyHeader) clone() *ProxyHeader {
	c := *h
	c.UniqueID, c.Extra = slices.Clone(h.UniqueID), slices.Clone(h.Extra)
	if h.TLS != nil {
		t := *h.TLS
		t.ClientCert, t.Extra = slices.Clone(t.ClientCert), slices.Clone(t.Extra)
		c.TLS = &t
	}
	return &c
}

// proxyTLSOf tells of TLS what HAProxy does.
func proxyTLSOf(s *tls.ConnectionState) *ProxyTLS {
	t := &ProxyTLS{
		Active: true, Verify: 1,
		Version: opensslVersion(s.Version), Cipher: opensslCipher(tls.CipherSuiteName(s.CipherSuite)),
	}
	if len(s.PeerCertificates) == 0 {
		return t
	}
	t.CertSession, t.CertConn = true, !s.DidResume
	t.CommonName = s.PeerCertificates[0].Subject.CommonName
	if len(s.VerifiedChains) > 0 {
		t.Verify = 0
	}
	return t
}

// opensslVersion is the name that OpenSSL has for a version.
func opensslVersion(v uint16) string {
	switch v {
	case tls.VersionTLS13:
		return "TLSv1.3"
	case tls.VersionTLS12:
		return "TLSv1.2"
	case tls.VersionTLS11:
		return "TLSv1.1"
	case tls.VersionTLS10:
		return "TLSv1"
	}
	return ""
}

// opensslCipher makes of a suite's name in the standards the one that OpenSSL has:
// the same from TLS 1.3 on, and before that such as ECDHE-RSA-AES128-GCM-SHA256.
func opensslCipher(name string) string {
	kind, cipher, ok := strings.Cut(strings.TrimPrefix(name, "TLS_"), "_WITH_")
	if !ok {
		return name
	}
	cipher = strings.NewReplacer("AES_128_CBC_SHA", "AES128-SHA", "AES_256_CBC_SHA", "AES256-SHA", "AES_", "AES",
		"3DES_EDE_CBC", "DES-CBC3", "RC4_128", "RC4", "POLY1305_SHA256", "POLY1305", "_", "-").Replace(cipher)
	if kind = strings.ReplaceAll(kind, "_", "-"); kind != "RSA" {
		return kind + "-" + cipher
	}
	return cipher
}
