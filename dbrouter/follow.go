package dbrouter

import (
	"encoding/binary"
	"strings"
)

// Pieces of the client/server protocol that a follower looks at. See
// https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html and
// https://mariadb.com/kb/en/clientserver-protocol/.
const (
	capTLS          = 1 << 11
	capCompress     = 1 << 5
	cap41           = 1 << 9
	capSessionTrack = 1 << 23
	capDeprecateEOF = 1 << 24
	capZstd         = 1 << 26
	capAttributes   = 1 << 27 // of queries: they come before the text

	comQuit      = 0x01
	comQuery     = 0x03
	comExecute   = 0x17
	comLongData  = 0x18
	comCloseStmt = 0x19

	headOK    = 0x00
	headInto  = 0xfb // the client is to send a file
	headEOF   = 0xfe
	headError = 0xff

	moreResults    = 1 << 3
	sessionChanged = 1 << 14

	trackVariable = 0
	trackGTIDs    = 3

	maxPacket = 1<<24 - 1
	// followLimit bounds the packet that is looked into. An OK packet has
	// hundreds of bytes, a greeting about a hundred.
	followLimit = 1 << 16
)

// followState is what a follower expects of the server next.
type followState uint8

const (
	followNothing  followState = iota // bytes of no interest
	followGreeting                    // the first packet of all
	followHead                        // the first packet of a result
	followRows                        // definitions and rows, up to their end
)

// follower reads along what a server sends to a driver, packet by packet, and
// keeps the GTIDs that the server reports. It is pure: bytes in, a position
// out. Whatever the server sends, it neither fails nor keeps more than
// followLimit bytes; if it has lost its way, it says so and stays silent.
type follower struct {
	state followState
	// lost: the stream is not understood any more, or a report was too long.
	lost bool
	// eof: results end with an OK packet rather than the old EOF packet.
	eof bool
	// renumber is taken off the sequence numbers that the driver sees.
	renumber byte

	header [4]byte
	n      int  // bytes of header there are
	left   int  // bytes of the packet still to come
	long   bool // the packet goes on the one before it
	keep   bool // the packet is collected
	packet []byte

	greeting []byte
	dialect  dialect
	gtids    string // reported since the last take
}

// feed takes in bytes from the server, and changes the sequence numbers in them.
func (f *follower) feed(b []byte) {
	if f.state == followNothing && f.renumber == 0 || f.lost {
		return
	}
	for len(b) > 0 && !f.lost {
		if f.n < len(f.header) {
			if f.n == 3 {
				b[0] -= f.renumber
			}
			f.header[f.n] = b[0]
			b = b[1:]
			if f.n++; f.n < len(f.header) {
				continue
			}
			f.begin()
		}
		k := min(f.left, len(b))
		if f.keep {
			f.collect(b[:k])
		}
		b = b[k:]
		if f.left -= k; f.left == 0 {
			f.end()
		}
	}
}

// begin looks at the header of a packet.
func (f *follower) begin() {
	f.left = int(f.header[0]) | int(f.header[1])<<8 | int(f.header[2])<<16
	f.packet = f.packet[:0]
	f.keep = !f.long && f.state != followNothing
}

// collect keeps a piece of the packet for as long as it may be of interest:
// of a row or a definition only the first byte.
func (f *follower) collect(b []byte) {
	f.packet = append(f.packet, b[:min(len(b), followLimit-len(f.packet))]...)
	if f.state == followRows && len(f.packet) > 0 && !f.endsRows() {
		f.keep = false
	}
}

// endsRows says whether the packet ends a result: a row that begins with this
// byte is longer than any single packet.
func (f *follower) endsRows() bool {
	return f.packet[0] == headError || f.packet[0] == headEOF && f.size() < maxPacket
}

func (f *follower) size() int {
	return int(f.header[0]) | int(f.header[1])<<8 | int(f.header[2])<<16
}

// end looks at a packet that is complete.
func (f *follower) end() {
	f.n = 0
	wasLong := f.long
	f.long = f.size() == maxPacket
	if wasLong || f.state == followNothing {
		return
	}
	if f.long || f.size() > followLimit {
		// Nothing of this length is an OK packet worth the name, but a row may.
		if f.state == followHead || f.state == followRows && len(f.packet) > 0 && f.endsRows() {
			f.lost = true
		}
		f.lost = f.lost || f.state == followGreeting
		return
	}
	switch f.state {
	case followGreeting:
		f.greeting = append([]byte(nil), f.packet...)
		f.state = followNothing
	case followHead:
		f.endHead()
	case followRows:
		if len(f.packet) > 0 && f.endsRows() {
			f.endRows()
		}
	}
}

func (f *follower) endHead() {
	if len(f.packet) == 0 {
		f.lost = true
		return
	}
	switch f.packet[0] {
	case headOK:
		f.ok()
	case headError:
		f.state = followNothing
	case headInto:
		// What the client sends is not followed; the answer is a head again.
	default:
		f.state = followRows
		if !f.eof {
			// The end of the rows tells nothing then, and comes twice.
			f.state = followNothing
			f.lost = true
		}
	}
}

func (f *follower) endRows() {
	if f.packet[0] == headError {
		f.state = followNothing
		return
	}
	f.ok()
}

// ok reads an OK packet: the affected rows and the last inserted ID as numbers,
// status, warnings, a text, and what has changed in the session.
func (f *follower) ok() {
	r := reader{b: f.packet[1:]}
	r.number()
	r.number()
	status := r.uint16()
	r.uint16()
	if r.bad {
		f.lost = true
		return
	}
	f.state = followNothing
	if status&moreResults != 0 {
		f.state = followHead
	}
	if status&sessionChanged == 0 {
		return
	}
	r.text()
	changes := reader{b: r.text()}
	for len(changes.b) > 0 && !changes.bad {
		kind := changes.byte()
		f.change(kind, reader{b: changes.text()})
	}
	f.lost = f.lost || r.bad || changes.bad
}

// change reads one change of the session. Kinds that are not known are for
// others (vitess #10871).
func (f *follower) change(kind byte, r reader) {
	var gtids string
	switch kind {
	case trackVariable:
		// Several pairs may share an entry (MariaDB).
		for len(r.b) > 0 && !r.bad {
			name, value := r.text(), r.text()
			if string(name) == "last_gtid" {
				gtids = string(value)
			}
		}
	case trackGTIDs:
		r.byte() // the encoding; there is but one
		gtids = string(r.text())
	default:
		return
	}
	if r.bad {
		f.lost = true
		return
	}
	if gtids == "" {
		return
	}
	joined, err := join(f.dialect, f.gtids, gtids)
	if err != nil {
		f.lost = true
		return
	}
	f.gtids = joined
}

// command is told of a command that the driver sends.
func (f *follower) command(com byte) {
	if f.lost {
		return
	}
	f.n, f.left, f.long, f.keep = 0, 0, false, false
	f.state = followNothing
	if com == comQuery || com == comExecute {
		f.state = followHead
	}
}

// take returns what was reported since the last call, and whether it can be
// relied on to be all.
func (f *follower) take() (gtids string, sure bool) {
	gtids, f.gtids = f.gtids, ""
	if f.lost {
		return "", false
	}
	return gtids, true
}

// greeting is what is used of a server's first packet.
type greeting struct {
	version string
	thread  uint32
	caps    uint32
}

// parseGreeting reads protocol version 10. It says no to an error packet, too.
func parseGreeting(b []byte) (greeting, bool) {
	if len(b) < 1 || b[0] != 10 {
		return greeting{}, false
	}
	version, rest, ok := strings.Cut(string(b[1:]), "\x00")
	// Thread ID, first part of the salt, a zero, capabilities, character set,
	// status, capabilities.
	if !ok || len(rest) < 4+8+1+2+1+2+2 {
		return greeting{}, false
	}
	low := binary.LittleEndian.Uint16([]byte(rest[13:]))
	high := binary.LittleEndian.Uint16([]byte(rest[18:]))
	return greeting{version: version, thread: binary.LittleEndian.Uint32([]byte(rest)), caps: uint32(low) | uint32(high)<<16}, true
}

// reader takes the fields of a packet one after the other. After the first that
// is not there, it is bad and gives zeros.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if r.bad || n > len(r.b) {
		r.bad = true
		return nil
	}
	out := r.b[:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) uint16() uint16 {
	if b := r.take(2); b != nil {
		return binary.LittleEndian.Uint16(b)
	}
	return 0
}

// number reads an integer of 1 to 9 bytes.
func (r *reader) number() uint64 {
	n := 0
	switch first := r.byte(); first {
	case 0xfc:
		n = 2
	case 0xfd:
		n = 3
	case 0xfe:
		n = 8
	case 0xfb, 0xff:
		r.bad = true
		return 0
	default:
		return uint64(first)
	}
	var v uint64
	for i, b := range r.take(n) {
		v |= uint64(b) << (8 * i)
	}
	return v
}

// text reads a text with its length before it. An empty remainder is an empty
// text: servers leave out what they have nothing to say in.
func (r *reader) text() []byte {
	if len(r.b) == 0 {
		return nil
	}
	n := r.number()
	if n > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	return r.take(int(n))
}
