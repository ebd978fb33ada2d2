package lb

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

func addrPort(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func TestProxyHeaderV1(t *testing.T) {
	for _, c := range []struct {
		line                string
		source, destination string // empty: not known
	}{
		{"PROXY TCP4 192.0.2.1 203.0.113.9 56324 443\r\n", "192.0.2.1:56324", "203.0.113.9:443"},
		{"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255:65535", "255.255.255.255:65535"},
		{"PROXY TCP6 2001:db8::1 2001:DB8::2 0 1\r\n", "[2001:db8::1]:0", "[2001:db8::2]:1"},
		{"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"},
		// A rule for IPv4 must see it.
		{"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:203.0.113.9 1 2\r\n", "192.0.2.1:1", "203.0.113.9:2"},
		{"PROXY UNKNOWN\r\n", "", ""},
		{"PROXY UNKNOWN ffff::1 and whatever\r\n", "", ""},
	} {
		h, n, err := ParseProxyHeader([]byte(c.line + "data"))
		if err != nil || n != len(c.line) || h.Version != ProxyV1 || h.Local {
			t.Errorf("%q: %+v, %d, %v", c.line, h, n, err)
			continue
		}
		if h.Source.IsValid() != (c.source != "") || c.source != "" && (h.Source != addrPort(c.source) || h.Destination != addrPort(c.destination)) {
			t.Errorf("%q: %v and %v", c.line, h.Source, h.Destination)
		}
		for i := range c.line {
			if _, _, err := ParseProxyHeader([]byte(c.line[:i])); err != io.ErrUnexpectedEOF {
				t.Errorf("the first %d bytes of %q: %v", i, c.line, err)
			}
		}
	}
	for _, line := range []string{
		"GET / HTTP/1.1\r\n", "PROXX", "proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n", "PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n", "PROXY\r\n", "PROXY \r\n",
		"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n", "PROXY TCP4 1.2.3.4 1.2.3.4 1  2\r\n", "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
		"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n", "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r2\r\n", "PROXY TCP4 1.2.3.4\t1.2.3.4 1 2\r\n",
		"PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n", "PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n", "PROXY TCP4 ::1 ::1 1 2\r\n", "PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
		"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", "PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n", "PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n", "PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n",
		"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n", "PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n", "PROXY UNKNOWNS\r\n", "PROXY UNKNOWN " + strings.Repeat("x", 92) + "\r\n",
	} {
		if h, _, err := ParseProxyHeader([]byte(line)); !errors.Is(err, ErrProxyHeader) {
			t.Errorf("%q: %+v, %v", line, h, err)
		}
	}
}

// v2 makes a header by hand, so that the parser is not only tested against our
// own writer.
func v2(command, family byte, body ...string) string {
	all := strings.Join(body, "")
	return "\r\n\r\n\x00\r\nQUIT\n" + string([]byte{command, family, byte(len(all) >> 8), byte(len(all))}) + all
}

func tlv(kind byte, value string) string {
	return string([]byte{kind, byte(len(value) >> 8), byte(len(value))}) + value
}

const (
	v4Pair = "\xc0\x00\x02\x01\xcb\x00\x71\x09\xdc\x04\x01\xbb"
	v6Pair = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" + "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02" + "\xdc\x04\x01\xbb"
)

func TestProxyHeaderV2(t *testing.T) {
	known := ProxyHeader{Version: ProxyV2, Source: addrPort("192.0.2.1:56324"), Destination: addrPort("203.0.113.9:443")}
	with := func(change func(*ProxyHeader)) ProxyHeader { h := known; change(&h); return h }
	for name, c := range map[string]struct {
		data string
		want ProxyHeader
	}{
		"tcp4":   {v2(0x21, 0x11, v4Pair), known},
		"udp4":   {v2(0x21, 0x12, v4Pair), with(func(h *ProxyHeader) { h.Datagram = true })},
		"tcp6":   {v2(0x21, 0x21, v6Pair), ProxyHeader{Version: ProxyV2, Source: addrPort("[2001:db8::1]:56324"), Destination: addrPort("[2001:db8::2]:443")}},
		"unix":   {v2(0x21, 0x31, strings.Repeat("/", 216)), ProxyHeader{Version: ProxyV2}},
		"unspec": {v2(0x21, 0x00), ProxyHeader{Version: ProxyV2}},
		// What comes with LOCAL must be ignored.
		"local":          {v2(0x20, 0x00), ProxyHeader{Version: ProxyV2, Local: true}},
		"local, garbage": {v2(0x20, 0x77, "garbage"), ProxyHeader{Version: ProxyV2, Local: true}},
		"fields": {v2(0x21, 0x11, v4Pair, tlv(4, "\x00\x00"), tlv(1, "h2"), tlv(2, "example.com"), tlv(5, "id-1"), tlv(4, ""), tlv(0xea, "\x01vpce-1"), tlv(0x30, "ns")), with(func(h *ProxyHeader) {
			h.ALPN, h.Authority, h.UniqueID = "h2", "example.com", []byte("id-1")
			h.Extra = []ProxyTLV{{0xea, []byte("\x01vpce-1")}, {0x30, []byte("ns")}}
		})},
		"tls": {v2(0x21, 0x11, v4Pair, tlv(0x20, "\x07\x00\x00\x00\x00"+tlv(0x21, "TLSv1.3")+tlv(0x22, "alice")+tlv(0x23, "TLS_AES_128_GCM_SHA256")+tlv(0x24, "SHA256")+tlv(0x25, "EC256")+tlv(0x26, "X25519")+tlv(0x27, "ecdsa")+tlv(0x28, "der")+tlv(0x29, "?"))), with(func(h *ProxyHeader) {
			h.TLS = &ProxyTLS{Active: true, CertConn: true, CertSession: true, Version: "TLSv1.3", CommonName: "alice", Cipher: "TLS_AES_128_GCM_SHA256",
				SignatureAlgorithm: "SHA256", KeyAlgorithm: "EC256", Group: "X25519", SignatureScheme: "ecdsa", ClientCert: []byte("der"), Extra: []ProxyTLV{{0x29, []byte("?")}}}
		})},
		"tls, not verified": {v2(0x21, 0x11, v4Pair, tlv(0x20, "\x03\x00\x00\x00\x12")), with(func(h *ProxyHeader) { h.TLS = &ProxyTLS{Active: true, CertConn: true, Verify: 0x12} })},
	} {
		h, n, err := ParseProxyHeader([]byte(c.data + "data"))
		if err != nil || n != len(c.data) || !reflect.DeepEqual(*h, c.want) {
			t.Errorf("%s: %+v, %d, %v, want %+v", name, h, n, err, c.want)
			continue
		}
		if verified := h.TLS.Verified(); verified != (name == "tls") {
			t.Errorf("%s: verified is %v", name, verified)
		}
		for i := range c.data {
			if _, _, err := ParseProxyHeader([]byte(c.data[:i])); err != io.ErrUnexpectedEOF {
				t.Errorf("%s, the first %d bytes: %v", name, i, err)
			}
		}
	}
	for name, data := range map[string]string{
		"version 1":              v2(0x11, 0x11, v4Pair),
		"unknown command":        v2(0x22, 0x11, v4Pair),
		"unknown family":         v2(0x21, 0x41, v4Pair),
		"unknown transport":      v2(0x21, 0x13, v4Pair),
		"family, no transport":   v2(0x21, 0x10, v4Pair),
		"transport, no family":   v2(0x21, 0x01, v4Pair),
		"short addresses":        v2(0x21, 0x11, v4Pair[:11]),
		"short tcp6":             v2(0x21, 0x21, v4Pair),
		"short unix":             v2(0x21, 0x31, strings.Repeat("/", 215)),
		"half a field":           v2(0x21, 0x11, v4Pair, "\x01\x00"),
		"long field":             v2(0x21, 0x11, v4Pair, "\x01\x00\x03h2"),
		"two ALPN":               v2(0x21, 0x11, v4Pair, tlv(1, "h2"), tlv(1, "h2")),
		"two TLS":                v2(0x21, 0x11, v4Pair, tlv(0x20, "\x01\x00\x00\x00\x01"), tlv(0x20, "\x07\x00\x00\x00\x00")),
		"two names":              v2(0x21, 0x11, v4Pair, tlv(0x20, "\x01\x00\x00\x00\x01"+tlv(0x22, "a")+tlv(0x22, "b"))),
		"short TLS":              v2(0x21, 0x11, v4Pair, tlv(0x20, "\x01\x00\x00\x00")),
		"half a field in TLS":    v2(0x21, 0x11, v4Pair, tlv(0x20, "\x01\x00\x00\x00\x00\x21\x00\x09TLSv1")),
		"long ID":                v2(0x21, 0x11, v4Pair, tlv(5, strings.Repeat("x", 129))),
		"control in authority":   v2(0x21, 0x11, v4Pair, tlv(2, "a\nb")),
		"authority not UTF-8":    v2(0x21, 0x11, v4Pair, tlv(2, "a\xff")),
		"checksum of three":      v2(0x21, 0x11, v4Pair, tlv(3, "\x00\x00\x00")),
		"wrong checksum":         v2(0x21, 0x11, v4Pair, tlv(3, "\x00\x00\x00\x00")),
		"too many unknown":       v2(0x21, 0x11, v4Pair, strings.Repeat(tlv(0xe0, ""), maxProxyExtra+1)),
		"other signature":        "\r\n\r\n\x00\r\nQUIT\r",
		"too many unknown in it": v2(0x21, 0x11, v4Pair, tlv(0x20, "\x01\x00\x00\x00\x00"+strings.Repeat(tlv(0xe0, ""), maxProxyExtra+1))),
	} {
		if h, _, err := ParseProxyHeader([]byte(data)); !errors.Is(err, ErrProxyHeader) {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
}

// TestProxyChecksum takes a header whose CRC32c was computed bit by bit here.
func TestProxyChecksum(t *testing.T) {
	header := []byte(v2(0x21, 0x11, v4Pair, tlv(3, "\x00\x00\x00\x00"), tlv(2, "example.com")))
	crc := ^uint32(0)
	for _, b := range header {
		crc ^= uint32(b)
		for range 8 {
			crc = crc>>1 ^ 0x82f63b78*(crc&1)
		}
	}
	at := proxyV2Head + len(v4Pair) + 3
	binary.BigEndian.PutUint32(header[at:], ^crc)
	if h, _, err := ParseProxyHeader(header); err != nil || h.Authority != "example.com" {
		t.Errorf("%+v, %v", h, err)
	}
	for i := proxyV2Head; i < len(header); i++ {
		flipped := bytes.Clone(header)
		flipped[i] ^= 0x10
		if h, _, err := ParseProxyHeader(flipped); err == nil {
			// The type of the field for the checksum is the one place where a flipped
			// bit takes the checksum away.
			if i != at-3 {
				t.Errorf("byte %d was flipped: %+v", i, h)
			}
		}
	}
}

func TestProxyHeaderAppend(t *testing.T) {
	for _, c := range []struct {
		h    ProxyHeader
		want string
	}{
		{ProxyHeader{Version: ProxyV1, Source: addrPort("192.0.2.1:1"), Destination: addrPort("192.0.2.2:2")}, "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"},
		{ProxyHeader{Version: ProxyV1, Source: addrPort("192.0.2.1:1"), Destination: addrPort("[2001:db8::1]:2")}, "PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 1 2\r\n"},
		{ProxyHeader{Version: ProxyV1, Source: addrPort("[fe80::1%eth0]:1"), Destination: addrPort("[::1]:2")}, "PROXY TCP6 fe80::1 ::1 1 2\r\n"},
		{ProxyHeader{Version: ProxyV1}, "PROXY UNKNOWN\r\n"},
		{ProxyHeader{Version: ProxyV1, Local: true, Source: addrPort("192.0.2.1:1"), Destination: addrPort("192.0.2.2:2")}, "PROXY UNKNOWN\r\n"},
		{ProxyHeader{Local: true, ALPN: "h2"}, v2(0x20, 0)},
	} {
		got, err := c.h.Append([]byte("before"))
		if err != nil || string(got) != "before"+c.want {
			t.Errorf("%+v: %q, %v", c.h, got, err)
		}
	}
	for name, h := range map[string]ProxyHeader{
		"version":         {Version: 3},
		"long ID":         {UniqueID: make([]byte, 129)},
		"long field":      {Authority: strings.Repeat("x", 1<<16)},
		"long header":     {Authority: strings.Repeat("x", 1<<15), ALPN: strings.Repeat("x", 1<<15)},
		"long TLS":        {TLS: &ProxyTLS{ClientCert: make([]byte, 1<<16)}},
		"type of Extra":   {Extra: []ProxyTLV{{tlvALPN, nil}}},
		"type in TLS":     {TLS: &ProxyTLS{Extra: []ProxyTLV{{tlvTLSCipher, nil}}}},
		"too many fields": {Extra: make([]ProxyTLV, maxProxyExtra+1)},
	} {
		if got, err := h.Append([]byte("before")); err == nil || string(got) != "before" {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

// TestProxyTLSMarshal: the field for TLS is the same by itself as in a header.
func TestProxyTLSMarshal(t *testing.T) {
	tls := &ProxyTLS{Active: true, CertSession: true, Verify: 7, Version: "TLSv1.3", CommonName: "alice", ClientCert: []byte{1, 2}, Extra: []ProxyTLV{{0x99, []byte("x")}}}
	value, err := tls.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	header, err := (&ProxyHeader{TLS: tls}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	if want := append([]byte{tlvTLS, 0, byte(len(value))}, value...); !strings.Contains(string(header), string(want)) {
		t.Errorf("the header %x does not have %x", header, want)
	}
	if again, err := parseProxyTLS(value); err != nil || !reflect.DeepEqual(again, tls) {
		t.Errorf("%+v, %v, want %+v", again, err, tls)
	}
	if _, err := (&ProxyTLS{ClientCert: make([]byte, 1<<16)}).MarshalBinary(); err == nil {
		t.Error("a field was written that is too long")
	}
}

// FuzzProxyHeader: what is taken can be written, and is the same when it is read
// again; what is not whole is never taken; and reading it in pieces gives the same.
func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.1 203.0.113.9 56324 443\r\nGET /"))
	f.Add([]byte("PROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 1 2\r\n"))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	for _, s := range []string{v2(0x20, 0), v2(0x21, 0x11, v4Pair), v2(0x21, 0x22, v6Pair, tlv(0xea, "x")), v2(0x21, 0x31, strings.Repeat("/", 216)),
		v2(0x21, 0x11, v4Pair, tlv(4, ""), tlv(1, "h2"), tlv(2, "example.com"), tlv(5, "id-1"), tlv(0x20, "\x07\x00\x00\x00\x00"+tlv(0x21, "TLSv1.3")+tlv(0x22, "alice")+tlv(0x2f, "?")))} {
		f.Add([]byte(s))
	}
	full, _ := (&ProxyHeader{Source: addrPort("192.0.2.1:1"), Destination: addrPort("192.0.2.2:2"), ALPN: "h2", TLS: &ProxyTLS{Active: true, Cipher: "x"}}).Append(nil)
	f.Add(full)
	f.Fuzz(func(t *testing.T, data []byte) {
		h, n, err := ParseProxyHeader(data)
		streamed, rest, streamErr := readProxyHeader(&readerConn{Reader: iotest.OneByteReader(bytes.NewReader(data))})
		if (err == nil) != (streamErr == nil) || err == nil && (!reflect.DeepEqual(h, streamed) || len(rest) != 0) {
			t.Fatalf("whole %+v, %v, in pieces %+v, %v", h, err, streamed, streamErr)
		}
		if err != nil {
			if err != io.ErrUnexpectedEOF && !errors.Is(err, ErrProxyHeader) {
				t.Fatal(err)
			}
			return
		}
		if n > len(data) || h.Version == ProxyV1 && n > maxProxyV1 || h.Source.Addr().Is4In6() || h.Source.IsValid() != h.Destination.IsValid() {
			t.Fatalf("%+v, %d", h, n)
		}
		if _, _, err := ParseProxyHeader(data[:n-1]); err != io.ErrUnexpectedEOF {
			t.Fatalf("without its last byte: %v", err)
		}
		out, err := h.Append(nil)
		if err != nil {
			// Only a checksum more than there was can be too much.
			if n < maxProxyHeader-7-4 {
				t.Fatalf("%+v cannot be written: %v", h, err)
			}
			return
		}
		if h.Datagram && !h.Source.IsValid() {
			h.Datagram = false // of Unix sockets
		}
		again, m, err := ParseProxyHeader(out)
		if err != nil || m != len(out) || !reflect.DeepEqual(normal(*h), normal(*again)) {
			t.Fatalf("%x: %+v, %d, %v, want %+v", out, again, m, err, h)
		}
		h.Version = ProxyV1
		line, _ := h.Append(nil)
		if _, m, err := ParseProxyHeader(line); err != nil || m != len(line) {
			t.Fatalf("%q: %v", line, err)
		}
	})
}

// normal leaves out the difference between empty and nil.
func normal(h ProxyHeader) string {
	var b strings.Builder
	if h.TLS != nil {
		b.WriteString(hex.EncodeToString(h.TLS.ClientCert))
		t := *h.TLS
		t.ClientCert = nil
		for _, e := range t.Extra {
			b.WriteString(hex.EncodeToString(append([]byte{e.Type}, e.Value...)) + " ")
		}
		t.Extra = nil
		b.WriteString(strings.Join([]string{t.Version, t.CommonName, t.Cipher, t.SignatureAlgorithm, t.KeyAlgorithm, t.Group, t.SignatureScheme}, "|"))
		b.WriteString(strings.Repeat("!", int(t.Verify%7)))
	}
	for _, e := range h.Extra {
		b.WriteString(hex.EncodeToString(append([]byte{e.Type}, e.Value...)) + " ")
	}
	b.WriteString(h.Source.String() + h.Destination.String() + h.ALPN + h.Authority + string(h.UniqueID))
	if h.Local {
		b.WriteString("local")
	}
	if h.Datagram {
		b.WriteString("datagram")
	}
	return b.String()
}

// readerConn reads from something else.
type readerConn struct {
	net.Conn
	io.Reader
}

func (c *readerConn) Read(p []byte) (int, error) { return c.Reader.Read(p) }
