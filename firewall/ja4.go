package firewall

import (
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

const (
	extServerName = 0
	extALPN       = 16
)

// JA4Of returns the JA4 fingerprint of what a client said first in TLS: the
// version, whether it named a server, how many cipher suites and extensions it
// has and its first protocol; a hash of the cipher suites; and a hash of the
// extensions and signature algorithms. The values that clients make up to keep
// servers tolerant (GREASE, RFC 8701) are left out, and what clients shuffle is
// sorted. See FoxIO's technical description of JA4, which alone of the JA4 family
// has a licence that lets everybody use it (BSD).
//
// For a connection of QUIC the first letter is q rather than t; this is told by
// the protocols that it offers.
func JA4Of(hello *tls.ClientHelloInfo) string {
	ciphers := withoutGrease(hello.CipherSuites)
	extensions := withoutGrease(hello.Extensions)
	transport, server := "t", "i"
	if slices.Contains(hello.Extensions, extQUICParameters) {
		transport = "q"
	}
	if slices.Contains(hello.Extensions, extServerName) {
		server = "d"
	}
	return fmt.Sprintf("%s%s%s%02d%02d%s_%s_%s", transport, ja4Version(hello.SupportedVersions), server,
		min(len(ciphers), 99), min(len(extensions), 99), ja4Protocol(hello.SupportedProtos),
		ja4Hash(sortedHex(ciphers)), ja4Extensions(extensions, hello.SignatureSchemes))
}

// extQUICParameters is what every client of QUIC sends (RFC 9001 section 8.2).
const extQUICParameters = 57

// withoutGrease leaves out 0a0a, 1a1a and so on to fafa.
func withoutGrease(values []uint16) []uint16 {
	return slices.DeleteFunc(slices.Clone(values), func(v uint16) bool { return v&0x0f0f == 0x0a0a && v>>8 == v&0xff })
}

func ja4Version(versions []uint16) string {
	good := withoutGrease(versions)
	if len(good) == 0 {
		return "00"
	}
	switch slices.Max(good) {
	case tls.VersionTLS13:
		return "13"
	case tls.VersionTLS12:
		return "12"
	case tls.VersionTLS11:
		return "11"
	case tls.VersionTLS10:
		return "10"
	case 0x0300:
		return "s3"
	}
	return "00"
}

// ja4Protocol is the first and the last character of the first protocol, or of
// its hexadecimal form if one of them is neither a letter nor a digit.
func ja4Protocol(protocols []string) string {
	if len(protocols) == 0 || protocols[0] == "" {
		return "00"
	}
	p := protocols[0]
	if first, last := p[0], p[len(p)-1]; isAlphanumeric(first) && isAlphanumeric(last) {
		return string([]byte{first, last})
	}
	h := hex.EncodeToString([]byte(p))
	return h[:1] + h[len(h)-1:]
}

func isAlphanumeric(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// ja4Extensions hashes the extensions but for the two of which the first part
// speaks, and then the signature algorithms as they come.
func ja4Extensions(extensions []uint16, signatures []tls.SignatureScheme) string {
	if len(extensions) == 0 {
		return strings.Repeat("0", 12)
	}
	text := sortedHex(slices.DeleteFunc(slices.Clone(extensions), func(e uint16) bool { return e == extServerName || e == extALPN }))
	var schemes []string
	for _, s := range signatures {
		schemes = append(schemes, fmt.Sprintf("%04x", uint16(s)))
	}
	if len(schemes) > 0 {
		text += "_" + strings.Join(schemes, ",")
	}
	return ja4Hash(text)
}

func sortedHex(values []uint16) string {
	var out []string
	for _, v := range values {
		out = append(out, fmt.Sprintf("%04x", v))
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

func ja4Hash(text string) string {
	if text == "" {
		return strings.Repeat("0", 12)
	}
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:6])
}
