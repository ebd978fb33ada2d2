// Package clienthello reads the first message of a TLS client, so that its
// connection can be sent somewhere without ending its TLS. It takes what a server
// must (RFC 8446, section 4.1.2; RFC 6066, section 3; RFC 7301) and refuses what
// two readers could understand in two ways.
package clienthello

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

var (
	// ErrNotTLS is a beginning that is none of TLS.
	ErrNotTLS = errors.New("the client does not speak TLS")
	// ErrMalformed is wrapped by errors about what looks like TLS, and is not as
	// it must be.
	ErrMalformed = errors.New("malformed ClientHello")
)

const (
	// MaxMessage is the length of the longest message that is taken.
	MaxMessage = 64 << 10
	// MaxBytes bounds what is read, with the heads of records, which somebody
	// might fill with a byte each.
	MaxBytes = MaxMessage + 16<<10

	recordHead  = 5
	messageHead = 4
	maxRecord   = 16 << 10
)

// Hello is what a client says of itself. It is plain data.
type Hello struct {
	// ServerName is in lower case. Empty means that the client has sent none.
	ServerName string
	// ALPN are the protocols that the client offers, in its order.
	ALPN []string
}

// Read reads from r until the message is whole, and returns all that it has read,
// with an error, too. Memory is taken as bytes come, MaxBytes and a bit at most,
// and time in proportion to them.
func Read(r io.Reader) (*Hello, []byte, error) {
	p := parser{raw: make([]byte, 0, 4<<10)}
	for {
		if len(p.raw) == cap(p.raw) {
			p.raw = append(make([]byte, 0, 2*cap(p.raw)), p.raw...)
		}
		n, readErr := r.Read(p.raw[len(p.raw):cap(p.raw)])
		p.raw = p.raw[:len(p.raw)+n]
		if n > 0 {
			h, err := p.step()
			if h != nil || err != nil {
				return h, p.raw, err
			}
			if len(p.raw) > MaxBytes {
				return nil, p.raw, malformed("more than %d bytes", MaxBytes)
			}
		}
		if readErr == io.EOF && len(p.raw) > 0 {
			readErr = io.ErrUnexpectedEOF
		}
		if readErr != nil {
			return nil, p.raw, readErr
		}
	}
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// parser takes the message out of its records as they come.
type parser struct {
	raw    []byte // all that was read
	at     int    // of raw, what is not looked at yet
	record int    // bytes of the current record that have not come
	msg    []byte
}

// step looks at what is new in raw. It returns nil twice if the message is not
// whole.
func (p *parser) step() (*Hello, error) {
	for {
		if p.record == 0 {
			if err := checkRecord(p.raw[p.at:min(len(p.raw), p.at+recordHead)], p.at == 0); err != nil {
				return nil, err
			}
			if len(p.raw)-p.at < recordHead {
				return nil, nil
			}
			p.record = int(binary.BigEndian.Uint16(p.raw[p.at+3:]))
			p.at += recordHead
		}
		n := min(p.record, len(p.raw)-p.at)
		p.msg = append(p.msg, p.raw[p.at:p.at+n]...)
		p.at, p.record = p.at+n, p.record-n
		whole, err := p.whole()
		if err != nil {
			return nil, err
		}
		if whole {
			return parse(p.msg[messageHead:])
		}
		if p.at == len(p.raw) {
			return nil, nil
		}
	}
}

// checkRecord looks at the head of a record, or as much of it as there is.
func checkRecord(head []byte, first bool) error {
	bad := len(head) > 0 && head[0] != 22 || len(head) > 1 && head[1] != 3
	switch {
	case bad && first:
		return ErrNotTLS
	case bad:
		return malformed("a record of type %d within it", head[0])
	case len(head) < recordHead:
		return nil
	}
	if n := int(binary.BigEndian.Uint16(head[3:])); n == 0 || n > maxRecord {
		return malformed("a record of %d bytes, want 1 to %d", n, maxRecord)
	}
	return nil
}

// whole says whether the message is.
func (p *parser) whole() (bool, error) {
	if len(p.msg) > 0 && p.msg[0] != 1 {
		return false, malformed("a message of type %d, want 1", p.msg[0])
	}
	if len(p.msg) < messageHead {
		return false, nil
	}
	size := messageHead + int(p.msg[1])<<16 + int(p.msg[2])<<8 + int(p.msg[3])
	switch {
	case size > MaxMessage:
		return false, malformed("%d bytes, want %d at most", size, MaxMessage)
	case len(p.msg) > size || len(p.msg) == size && p.record > 0:
		return false, malformed("another message in its record")
	}
	return len(p.msg) == size, nil
}

// parse reads the message without its head.
func parse(body []byte) (*Hello, error) {
	c := cursor{data: body}
	c.take(2 + 32) // version and random
	if session := c.vector(1); len(session) > 32 {
		return nil, malformed("a session ID of %d bytes", len(session))
	}
	if suites := c.vector(2); len(suites) == 0 || len(suites)%2 != 0 {
		return nil, malformed("%d bytes of cipher suites", len(suites))
	}
	if len(c.vector(1)) == 0 {
		return nil, malformed("no compression method")
	}
	h := new(Hello)
	if !c.failed && len(c.data) > 0 {
		extensions := cursor{data: c.vector(2)}
		if err := h.extensions(&extensions); err != nil {
			return nil, err
		}
	}
	if c.failed || len(c.data) > 0 {
		return nil, malformed("its lengths do not fit")
	}
	return h, nil
}

func (h *Hello) extensions(c *cursor) error {
	seen := make(map[uint16]bool)
	for len(c.data) > 0 {
		kind := c.uint16()
		data := c.vector(2)
		if c.failed {
			return malformed("the lengths of extensions do not fit")
		}
		// Of two, who can say which the server believes.
		if seen[kind] {
			return malformed("two extensions of type %d", kind)
		}
		seen[kind] = true
		var err error
		switch kind {
		case 0:
			err = h.serverName(data)
		case 16:
			err = h.protocols(data)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (h *Hello) serverName(data []byte) error {
	c := cursor{data: data}
	list := cursor{data: c.vector(2)}
	kind := list.take(1)
	name := list.vector(2)
	if c.failed || list.failed || len(c.data) > 0 || len(list.data) > 0 || kind[0] != 0 || len(name) == 0 {
		return malformed("the server name is not one host name")
	}
	for _, b := range name {
		if b <= ' ' || b >= 0x7f {
			return malformed("the server name %q is no host name", name)
		}
	}
	if name[len(name)-1] == '.' {
		return malformed("the server name %q ends in a dot", name)
	}
	h.ServerName = strings.ToLower(string(name))
	return nil
}

func (h *Hello) protocols(data []byte) error {
	c := cursor{data: data}
	list := cursor{data: c.vector(2)}
	if c.failed || len(c.data) > 0 || len(list.data) == 0 {
		return malformed("the protocols are no list")
	}
	for len(list.data) > 0 {
		name := list.vector(1)
		if list.failed || len(name) == 0 {
			return malformed("the protocols are no list of names")
		}
		h.ALPN = append(h.ALPN, string(name))
	}
	return nil
}

// cursor takes parts off the front of data, and notes if there were too few bytes.
type cursor struct {
	data   []byte
	failed bool
}

func (c *cursor) take(n int) []byte {
	if len(c.data) < n {
		c.failed, c.data = true, nil
		return make([]byte, n)
	}
	out := c.data[:n]
	c.data = c.data[n:]
	return out
}

func (c *cursor) uint16() uint16 { return binary.BigEndian.Uint16(c.take(2)) }

// vector takes a length of so many bytes and what it is the length of.
func (c *cursor) vector(lengthBytes int) []byte {
	n := 0
	for _, b := range c.take(lengthBytes) {
		n = n<<8 | int(b)
	}
	if len(c.data) < n {
		c.failed, c.data = true, nil
		return nil
	}
	return c.take(n)
}
