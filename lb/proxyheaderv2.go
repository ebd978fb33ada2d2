package lb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Of version 2 (proxy-protocol.txt, section 2.2): the head is a signature,
// version and command, family and transport, and the length of what follows.
const (
	proxyV2Signature = "\r\n\r\n\x00\r\nQUIT\n"
	proxyV2Head      = len(proxyV2Signature) + 4

	proxyCommandLocal, proxyCommandProxy = 0x20, 0x21

	proxyUnspec, proxyInet, proxyInet6, proxyUnix = 0x0, 0x1, 0x2, 0x3
	proxyStream, proxyDatagram                    = 0x1, 0x2
)

// The types of fields.
const (
	tlvALPN, tlvAuthority, tlvCRC32C, tlvNoop, tlvUniqueID, tlvTLS = 0x01, 0x02, 0x03, 0x04, 0x05, 0x20

	// Within that for TLS.
	tlvTLSVersion, tlvTLSCommonName, tlvTLSCipher, tlvTLSSignature, tlvTLSKey = 0x21, 0x22, 0x23, 0x24, 0x25
	tlvTLSGroup, tlvTLSScheme, tlvTLSClientCert                               = 0x26, 0x27, 0x28
)

// Bits of the first byte of the field for TLS.
const (
	tlsActive, tlsCertConn, tlsCertSession = 0x01, 0x02, 0x04
)

const (
	maxUniqueID   = 128
	maxProxyExtra = 64
)

// castagnoli is the table of CRC32c.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// parseProxyV2 gets data that begins as the signature does, or less.
func parseProxyV2(data []byte) (*ProxyHeader, int, error) {
	// What is wrong already is not waited for.
	if at := len(proxyV2Signature); len(data) > at && data[at] != proxyCommandLocal && data[at] != proxyCommandProxy {
		return nil, 0, badProxy("version and command are %#02x, want 0x20 or 0x21", data[at])
	}
	if len(data) < proxyV2Head {
		return nil, 0, io.ErrUnexpectedEOF
	}
	size := proxyV2Head + int(binary.BigEndian.Uint16(data[proxyV2Head-2:]))
	if len(data) < size {
		return nil, 0, io.ErrUnexpectedEOF
	}
	data = data[:size]
	h := &ProxyHeader{Version: ProxyV2}
	if data[len(proxyV2Signature)] == proxyCommandLocal {
		// All that follows must be ignored, the family too.
		h.Local = true
		return h, size, nil
	}
	n, err := h.parseAddresses(data[proxyV2Head-3], data[proxyV2Head:])
	if err != nil {
		return nil, 0, err
	}
	if err := h.parseFields(data, proxyV2Head+n); err != nil {
		return nil, 0, err
	}
	return h, size, nil
}

// parseAddresses returns their length.
func (h *ProxyHeader) parseAddresses(family byte, body []byte) (int, error) {
	var length int // of an address
	switch family >> 4 {
	case proxyUnspec:
		if family != 0 {
			return 0, badProxy("family and transport are %#02x, which is nothing", family)
		}
		return 0, nil
	case proxyInet:
		length = 4
	case proxyInet6:
		length = 16
	case proxyUnix:
		length = 108
	}
	transport := family & 0xf
	if length == 0 || transport != proxyStream && transport != proxyDatagram {
		return 0, badProxy("family and transport are %#02x, which is nothing", family)
	}
	h.Datagram = transport == proxyDatagram
	n := 2 * length
	if length == 108 {
		if len(body) < n {
			return 0, badProxy("%d bytes are too few for the addresses", len(body))
		}
		return n, nil
	}
	if len(body) < n+4 {
		return 0, badProxy("%d bytes are too few for the addresses", len(body))
	}
	source, _ := netip.AddrFromSlice(body[:length])
	destination, _ := netip.AddrFromSlice(body[length:n])
	h.Source = unmapped(netip.AddrPortFrom(source, binary.BigEndian.Uint16(body[n:])))
	h.Destination = unmapped(netip.AddrPortFrom(destination, binary.BigEndian.Uint16(body[n+2:])))
	return n + 4, nil
}

// parseFields reads the fields of a whole header, which start at an offset.
func (h *ProxyHeader) parseFields(data []byte, start int) error {
	return eachTLV(data[start:], isProxyTLV, func(kind byte, value []byte, offset int) error {
		switch kind {
		case tlvALPN:
			h.ALPN = string(value)
		case tlvAuthority:
			h.Authority = string(value)
			if !utf8.ValidString(h.Authority) || strings.ContainsFunc(h.Authority, unicode.IsControl) {
				return badProxy("the authority %q is no host name", h.Authority)
			}
		case tlvCRC32C:
			return verifyChecksum(data, start+offset, value)
		case tlvNoop:
		case tlvUniqueID:
			if len(value) > maxUniqueID {
				return badProxy("the unique ID has %d bytes, want %d at most", len(value), maxUniqueID)
			}
			h.UniqueID = bytes.Clone(value)
		case tlvTLS:
			t, err := parseProxyTLS(value)
			h.TLS = t
			return err
		default:
			return addExtra(&h.Extra, kind, value)
		}
		return nil
	})
}

func addExtra(extra *[]ProxyTLV, kind byte, value []byte) error {
	if len(*extra) >= maxProxyExtra {
		return badProxy("more than %d fields of unknown types", maxProxyExtra)
	}
	*extra = append(*extra, ProxyTLV{kind, bytes.Clone(value)})
	return nil
}

// eachTLV calls f for each field, with the offset of its value. A type that is
// known comes once: of two, who can say which the others believe.
func eachTLV(data []byte, known func(byte) bool, f func(kind byte, value []byte, offset int) error) error {
	var seen [256]bool
	for offset := 0; offset < len(data); {
		if len(data)-offset < 3 {
			return badProxy("half a field at the end")
		}
		kind, n := data[offset], int(binary.BigEndian.Uint16(data[offset+1:]))
		offset += 3
		if n > len(data)-offset {
			return badProxy("a field of type %#02x is longer than the header", kind)
		}
		if seen[kind] && known(kind) {
			return badProxy("two fields of type %#02x", kind)
		}
		seen[kind] = true
		if err := f(kind, data[offset:offset+n], offset); err != nil {
			return err
		}
		offset += n
	}
	return nil
}

// isProxyTLV and isTLSTLV say which types are none of Extra's.
func isProxyTLV(kind byte) bool {
	switch kind {
	case tlvALPN, tlvAuthority, tlvCRC32C, tlvUniqueID, tlvTLS:
		return true
	}
	return false
}

func isTLSTLV(kind byte) bool { return kind >= tlvTLSVersion && kind <= tlvTLSClientCert }

// verifyChecksum checks the CRC32c of a whole header, in which that itself counts
// as zero.
func verifyChecksum(data []byte, offset int, value []byte) error {
	if len(value) != 4 {
		return badProxy("the checksum has %d bytes, want 4", len(value))
	}
	if found, want := binary.BigEndian.Uint32(value), checksum(data, offset); found != want {
		return badProxy("the checksum is %#08x, want %#08x", found, want)
	}
	return nil
}

func checksum(data []byte, offset int) uint32 {
	sum := crc32.Update(0, castagnoli, data[:offset])
	sum = crc32.Update(sum, castagnoli, make([]byte, 4))
	return crc32.Update(sum, castagnoli, data[offset+4:])
}

func parseProxyTLS(data []byte) (*ProxyTLS, error) {
	if len(data) < 5 {
		return nil, badProxy("the field for TLS has %d bytes, want 5 at least", len(data))
	}
	t := &ProxyTLS{
		Active: data[0]&tlsActive != 0, CertConn: data[0]&tlsCertConn != 0, CertSession: data[0]&tlsCertSession != 0,
		Verify: binary.BigEndian.Uint32(data[1:]),
	}
	err := eachTLV(data[5:], isTLSTLV, func(kind byte, value []byte, _ int) error {
		if text := t.text(kind); text != nil {
			*text = string(value)
			return nil
		}
		if kind == tlvTLSClientCert {
			t.ClientCert = bytes.Clone(value)
			return nil
		}
		return addExtra(&t.Extra, kind, value)
	})
	return t, err
}

// text returns where the text of a type of field is.
func (t *ProxyTLS) text(kind byte) *string {
	switch kind {
	case tlvTLSVersion:
		return &t.Version
	case tlvTLSCommonName:
		return &t.CommonName
	case tlvTLSCipher:
		return &t.Cipher
	case tlvTLSSignature:
		return &t.SignatureAlgorithm
	case tlvTLSKey:
		return &t.KeyAlgorithm
	case tlvTLSGroup:
		return &t.Group
	case tlvTLSScheme:
		return &t.SignatureScheme
	}
	return nil
}

// appendV2 ends in a checksum, unless the header is for a local connection, of
// which nothing is said.
func (h *ProxyHeader) appendV2(dst []byte) ([]byte, error) {
	start := len(dst)
	dst = append(dst, proxyV2Signature...)
	if h.Local {
		return append(dst, proxyCommandLocal, 0, 0, 0), nil
	}
	dst = append(dst, proxyCommandProxy)
	dst = h.appendAddresses(dst)
	w := tlvWriter{dst: dst}
	w.text(tlvALPN, h.ALPN)
	w.text(tlvAuthority, h.Authority)
	if len(h.UniqueID) > maxUniqueID {
		return dst[:start], fmt.Errorf("lb: ProxyHeader.UniqueID has %d bytes, want %d at most", len(h.UniqueID), maxUniqueID)
	}
	w.bytes(tlvUniqueID, h.UniqueID)
	if h.TLS != nil {
		value, err := h.TLS.append(nil)
		if err != nil {
			return dst[:start], err
		}
		w.bytes(tlvTLS, value)
	}
	w.extra(h.Extra, func(kind byte) bool { return isProxyTLV(kind) || kind == tlvNoop })
	if w.err != nil {
		return dst[:start], w.err
	}
	dst = append(w.dst, tlvCRC32C, 0, 4, 0, 0, 0, 0)
	header := dst[start:]
	length := len(header) - proxyV2Head
	if length > 0xffff {
		return dst[:start], errors.New("lb: the ProxyHeader is too long for version 2, want 65,535 bytes at most")
	}
	binary.BigEndian.PutUint16(header[proxyV2Head-2:], uint16(length))
	binary.BigEndian.PutUint32(header[len(header)-4:], checksum(header, len(header)-4))
	return dst, nil
}

// appendAddresses writes family, transport, a length that is set later, and the
// addresses.
func (h *ProxyHeader) appendAddresses(dst []byte) []byte {
	if !h.knows() {
		return append(dst, 0, 0, 0)
	}
	transport := byte(proxyStream)
	if h.Datagram {
		transport = proxyDatagram
	}
	source, destination := h.Source.Addr().Unmap(), h.Destination.Addr().Unmap()
	if source.Is4() && destination.Is4() {
		s, d := source.As4(), destination.As4()
		dst = append(dst, proxyInet<<4|transport, 0, 0)
		dst = append(append(dst, s[:]...), d[:]...)
	} else {
		s, d := source.As16(), destination.As16()
		dst = append(dst, proxyInet6<<4|transport, 0, 0)
		dst = append(append(dst, s[:]...), d[:]...)
	}
	dst = binary.BigEndian.AppendUint16(dst, h.Source.Port())
	return binary.BigEndian.AppendUint16(dst, h.Destination.Port())
}

// MarshalBinary returns the value of the field for TLS (PP2_TYPE_SSL, section
// 2.2.6), for others who read it, such as a tlsx.Receiver. It fails as
// [ProxyHeader.Append] does.
func (t *ProxyTLS) MarshalBinary() ([]byte, error) { return t.append(nil) }

func (t *ProxyTLS) append(dst []byte) ([]byte, error) {
	var flags byte
	if t.Active {
		flags |= tlsActive
	}
	if t.CertConn {
		flags |= tlsCertConn
	}
	if t.CertSession {
		flags |= tlsCertSession
	}
	w := tlvWriter{dst: binary.BigEndian.AppendUint32(append(dst, flags), t.Verify)}
	for kind := byte(tlvTLSVersion); kind < tlvTLSClientCert; kind++ {
		w.text(kind, *t.text(kind))
	}
	w.bytes(tlvTLSClientCert, t.ClientCert)
	w.extra(t.Extra, isTLSTLV)
	return w.dst, w.err
}

// tlvWriter appends fields, and leaves out those that are empty.
type tlvWriter struct {
	dst []byte
	err error // the first
}

func (w *tlvWriter) text(kind byte, value string) { w.bytes(kind, []byte(value)) }

func (w *tlvWriter) bytes(kind byte, value []byte) {
	if len(value) > 0 {
		w.add(kind, value)
	}
}

func (w *tlvWriter) add(kind byte, value []byte) {
	if len(value) > 0xffff {
		if w.err == nil {
			w.err = fmt.Errorf("lb: a field of type %#02x of a ProxyHeader has %d bytes, want 65,535 at most", kind, len(value))
		}
		return
	}
	w.dst = binary.BigEndian.AppendUint16(append(w.dst, kind), uint16(len(value)))
	w.dst = append(w.dst, value...)
}

func (w *tlvWriter) extra(fields []ProxyTLV, known func(byte) bool) {
	if len(fields) > maxProxyExtra && w.err == nil {
		w.err = fmt.Errorf("lb: a ProxyHeader has %d fields in Extra, want %d at most", len(fields), maxProxyExtra)
	}
	for _, f := range fields {
		if known(f.Type) {
			if w.err == nil {
				w.err = fmt.Errorf("lb: a field of a ProxyHeader's Extra has the type %#02x, which is none of Extra's", f.Type)
			}
			return
		}
		w.add(f.Type, f.Value)
	}
}
