package acme

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

// The standard library resolves no CAA records, so here are the few parts of DNS
// messages (RFC 1035, section 4) that one question for them needs.

const (
	dnsTypeCAA   = 257 // RFC 8659, section 4.1
	dnsClassIN   = 1
	dnsMessage   = 1232 // bytes of a UDP answer that pass everywhere
	dnsAnswers   = 100  // records of an answer that are looked at
	dnsTruncated = 0x0200
)

var errBadDNS = errors.New("acme: malformed DNS message")

// caaRRs asks a server for the CAA records of a name. None is no error.
func caaRRs(ctx context.Context, server, name string) ([]caaRR, error) {
	var id [2]byte
	rand.Read(id[:])
	query := dnsQuery(binary.BigEndian.Uint16(id[:]), name)
	for _, network := range []string{"udp", "tcp"} {
		answer, err := dnsExchange(ctx, network, server, query)
		if err != nil {
			return nil, fmt.Errorf("acme: CAA records of %s from %s: %w", name, server, err)
		}
		records, truncated, err := parseCAA(answer, query)
		if err != nil {
			return nil, fmt.Errorf("acme: CAA records of %s from %s: %w", name, server, err)
		}
		if !truncated {
			return records, nil
		}
	}
	return nil, fmt.Errorf("acme: CAA records of %s from %s: %w", name, server, errBadDNS)
}

// dnsQuery is a question for CAA records, with recursion and room for a long
// answer (EDNS, RFC 6891). The name is a normal one.
func dnsQuery(id uint16, name string) []byte {
	q := binary.BigEndian.AppendUint16(nil, id)
	q = append(q, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1) // RD; one question, one additional
	for label := range strings.SplitSeq(name, ".") {
		q = append(q, byte(len(label)))
		q = append(q, label...)
	}
	q = append(q, 0)
	q = binary.BigEndian.AppendUint16(q, dnsTypeCAA)
	q = binary.BigEndian.AppendUint16(q, dnsClassIN)
	q = append(q, 0, 0, 41) // root, OPT
	q = binary.BigEndian.AppendUint16(q, dnsMessage)
	return append(q, 0, 0, 0, 0, 0, 0)
}

func dnsExchange(ctx context.Context, network, server string, query []byte) ([]byte, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	deadline := time.Now().Add(5 * time.Second)
	if end, ok := ctx.Deadline(); ok && end.Before(deadline) {
		deadline = end
	}
	conn.SetDeadline(deadline)
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	if network == "udp" {
		if _, err := conn.Write(query); err != nil {
			return nil, err
		}
		buf := make([]byte, dnsMessage)
		n, err := conn.Read(buf)
		return buf[:n], err
	}
	if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)); err != nil {
		return nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err = io.ReadFull(conn, buf)
	return buf, err
}

// parseCAA reads the CAA records of an answer to a query. The records of an
// alias's target count as those of the name, as RFC 8659, section 3 has it.
func parseCAA(msg, query []byte) (records []caaRR, truncated bool, err error) {
	if len(msg) < 12 || msg[0] != query[0] || msg[1] != query[1] || msg[2]&0x80 == 0 {
		return nil, false, errBadDNS
	}
	if binary.BigEndian.Uint16(msg[2:])&dnsTruncated != 0 {
		return nil, true, nil
	}
	switch code := msg[3] & 15; code {
	case 0:
	case 3: // there is no such name
		return nil, false, nil
	default:
		return nil, false, fmt.Errorf("acme: the DNS server answered with code %d", code)
	}
	question := query[12 : len(query)-11]
	if binary.BigEndian.Uint16(msg[4:]) != 1 || len(msg) < 12+len(question) || !strings.EqualFold(string(msg[12:12+len(question)]), string(question)) {
		return nil, false, errBadDNS
	}
	rest := msg[12+len(question):]
	for range min(dnsAnswers, int(binary.BigEndian.Uint16(msg[6:]))) {
		if rest, err = skipName(rest); err != nil {
			return nil, false, err
		}
		if len(rest) < 10 || len(rest) < 10+int(binary.BigEndian.Uint16(rest[8:])) {
			return nil, false, errBadDNS
		}
		size := int(binary.BigEndian.Uint16(rest[8:]))
		kind, data := binary.BigEndian.Uint16(rest), rest[10:10+size]
		rest = rest[10+size:]
		if kind != dnsTypeCAA {
			continue
		}
		if len(data) < 2 || data[1] == 0 || len(data) < 2+int(data[1]) {
			return nil, false, errBadDNS
		}
		tag := 2 + int(data[1])
		records = append(records, caaRR{data[0], strings.ToLower(string(data[2:tag])), string(data[tag:])})
	}
	return records, false, nil
}

// skipName returns what follows a name, which may end in a pointer.
func skipName(b []byte) ([]byte, error) {
	for len(b) > 0 {
		switch n := int(b[0]); {
		case n == 0:
			return b[1:], nil
		case n >= 0xc0 && len(b) >= 2:
			return b[2:], nil
		case n < 64 && len(b) > n:
			b = b[1+n:]
		default:
			return nil, errBadDNS
		}
	}
	return nil, errBadDNS
}

// systemResolver is the first name server of the system.
func systemResolver() (string, error) {
	const file = "/etc/resolv.conf"
	data, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("acme: no DNS server given and none found: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) >= 2 && fields[0] == "nameserver" {
			return net.JoinHostPort(fields[1], "53"), nil
		}
	}
	return "", fmt.Errorf("acme: no DNS server given and none in %s", file)
}
