package mysqltest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
)

// maxPayload is the first length that says "another packet follows": payloads
// are shorter.
const maxPayload = 1<<24 - 1

var (
	errMalformed = errors.New("mysqltest: malformed packet")
	errTooLarge  = errors.New("mysqltest: packet too large")
)

// wire frames packets on a connection: a length of three bytes, a sequence
// number, the payload. One goroutine uses it.
type wire struct {
	net.Conn
	r   *bufio.Reader
	w   *bufio.Writer
	seq byte
}

func newWire(c net.Conn) *wire {
	return &wire{Conn: c, r: bufio.NewReader(c), w: bufio.NewWriterSize(c, 16<<10)}
}

// read returns the next payload, of limit bytes at most. The memory grows with
// the bytes that arrive, not with the length that is announced.
func (w *wire) read(limit int) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(w.r, head[:]); err != nil {
		return nil, err
	}
	n := int(head[0]) | int(head[1])<<8 | int(head[2])<<16
	if head[3] != w.seq {
		return nil, errMalformed
	}
	w.seq++
	if n > limit || n == maxPayload {
		return nil, errTooLarge
	}
	var b bytes.Buffer
	if _, err := io.CopyN(&b, w.r, int64(n)); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// write buffers a packet; an error shows at the flush.
func (w *wire) write(payload []byte) {
	n := len(payload)
	w.w.Write([]byte{byte(n), byte(n >> 8), byte(n >> 16), w.seq})
	w.seq++
	w.w.Write(payload)
}

func (w *wire) flush() error { return w.w.Flush() }

// decoder takes a payload apart. After a read past the end, bad is true and
// every further read returns zero.
type decoder struct {
	b   []byte
	bad bool
}

// bytes returns the next n bytes, which share the payload's memory.
func (d *decoder) bytes(n uint64) []byte {
	if d.bad || n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return nil
	}
	out := d.b[:n:n]
	d.b = d.b[n:]
	return out
}

// uint returns a little-endian integer of n bytes, eight at most.
func (d *decoder) uint(n int) uint64 {
	var v [8]byte
	copy(v[:], d.bytes(uint64(n)))
	return binary.LittleEndian.Uint64(v[:])
}

// lenenc returns a length-encoded integer. The mark of NULL, 0xfb, is malformed:
// parameters carry NULL in a bitmap.
func (d *decoder) lenenc() uint64 {
	switch first := d.uint(1); first {
	case 0xfc:
		return d.uint(2)
	case 0xfd:
		return d.uint(3)
	case 0xfe:
		return d.uint(8)
	case 0xfb, 0xff:
		d.bad, d.b = true, nil
		return 0
	default:
		return first
	}
}

// lenencBytes returns a length-encoded string.
func (d *decoder) lenencBytes() []byte { return d.bytes(d.lenenc()) }

// cstring returns a string that ends with a zero byte.
func (d *decoder) cstring() string {
	i := bytes.IndexByte(d.b, 0)
	if d.bad || i < 0 {
		d.bad, d.b = true, nil
		return ""
	}
	out := string(d.b[:i])
	d.b = d.b[i+1:]
	return out
}

func appendLenenc(b []byte, n uint64) []byte {
	switch {
	case n < 0xfb:
		return append(b, byte(n))
	case n < 1<<16:
		return append(b, 0xfc, byte(n), byte(n>>8))
	case n < 1<<24:
		return append(b, 0xfd, byte(n), byte(n>>8), byte(n>>16))
	}
	return binary.LittleEndian.AppendUint64(append(b, 0xfe), n)
}

func appendLenencString(b []byte, s string) []byte {
	return append(appendLenenc(b, uint64(len(s))), s...)
}
