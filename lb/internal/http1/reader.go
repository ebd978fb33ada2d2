package http1

import (
	"bytes"
	"io"
	"sync"
)

// bufferSize is what a connection has for reading while it is in use.
const bufferSize = 4 << 10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

// Reader reads messages from a connection, whose bytes it buffers. It holds a
// buffer only from Acquire to Release. It is not safe for concurrent use.
type Reader struct {
	src  io.Reader
	home *[bufferSize]byte // of the pool
	buf  []byte            // home, or larger while a head is
	r, w int               // buf[r:w] has been received and not been read
	head int               // where the section that was read last begins in buf

	// The last read found less than there was room for: no more had come.
	drained bool
}

// NewReader returns a reader without a buffer.
func NewReader(src io.Reader) *Reader { return &Reader{src: src} }

// Acquire takes a buffer, if there is none.
func (r *Reader) Acquire() {
	if r.home == nil {
		r.home = buffers.Get().(*[bufferSize]byte)
		r.buf = r.home[:]
	}
}

// Release gives the buffer back, and with it what has not been read.
func (r *Reader) Release() {
	if r.home != nil {
		buffers.Put(r.home)
	}
	r.home, r.buf, r.head, r.r, r.w = nil, nil, 0, 0, 0
}

// Room is where the caller may put what it received itself, a buffer at least if
// nothing is buffered; Took says how much that is.
func (r *Reader) Room() []byte {
	r.Acquire()
	if r.r == r.w {
		r.r, r.w = 0, 0
		r.buf = r.home[:]
	}
	return r.buf[r.w:]
}

// Took adds n bytes that were put into Room.
func (r *Reader) Took(n int) {
	r.drained = n < len(r.buf)-r.w
	r.w += n
}

// Next returns what is buffered, which is valid until the next call.
func (r *Reader) Next() []byte { return r.buf[r.r:r.w] }

// Replay returns what has been received from the beginning of the head that
// ReadRequest has just taken, or has failed with. It is valid until the next call.
func (r *Reader) Replay() []byte { return r.buf[r.head:r.w] }

// Buffered is how many bytes have been received and not been read.
func (r *Reader) Buffered() int { return r.w - r.r }

// Read returns what is buffered or else reads from the connection, past the
// buffer if p is large.
func (r *Reader) Read(p []byte) (int, error) {
	if r.r == r.w {
		if len(p) >= bufferSize/2 || r.buf == nil {
			n, err := r.src.Read(p)
			r.drained = n < len(p)
			return n, err
		}
		if err := r.fill(); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.buf[r.r:r.w])
	r.r += n
	return n, nil
}

// fill receives more, for which there is room below the size of the buffer.
func (r *Reader) fill() error {
	r.Acquire()
	switch {
	case r.r == r.w:
		r.r, r.w = 0, 0
		r.buf = r.home[:]
	case r.w == len(r.buf):
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	n, err := r.src.Read(r.buf[r.w:])
	r.Took(n)
	if n > 0 {
		return nil
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// grow makes a full buffer larger.
func (r *Reader) grow(limit int) {
	larger := make([]byte, min(2*len(r.buf), limit+bufferSize))
	r.w = copy(larger, r.buf[r.r:r.w])
	r.r = 0
	r.buf = larger
}

// section reads lines up to an empty one and returns them, each with its CRLF,
// and their number. An error before the first byte is as it is; later, io.EOF is
// io.ErrUnexpectedEOF.
func (r *Reader) section(limit int) (text string, lines int, err error) {
	begin, at := 0, 0 // of the line, and where to look, from r.r
	for {
		for {
			i := bytes.IndexByte(r.buf[r.r+at:r.w], '\n')
			if i < 0 {
				break
			}
			end := at + i + 1
			r.head = r.r
			if end-begin < 2 || r.buf[r.r+end-2] != '\r' {
				return "", 0, malformed("a line ends without CR")
			}
			if end > limit {
				return "", 0, ErrTooLarge
			}
			if end-begin == 2 {
				text = string(r.buf[r.r : r.r+begin])
				r.r += end
				return text, lines, nil
			}
			lines++
			begin, at = end, end
		}
		if at = r.Buffered(); at > limit {
			r.head = r.r
			return "", 0, ErrTooLarge
		}
		if r.w == len(r.buf) && r.r == 0 && at > 0 {
			r.grow(limit)
		}
		if err := r.fill(); err != nil {
			if err == io.EOF && at > 0 {
				err = io.ErrUnexpectedEOF
			}
			r.head = r.r
			return "", 0, err
		}
	}
}

// line reads a line and returns it without its CRLF. The result is valid until
// the next call. limit is below the size of the buffer.
func (r *Reader) line(limit int) ([]byte, error) {
	at := 0
	for {
		if i := bytes.IndexByte(r.buf[r.r+at:r.w], '\n'); i >= 0 {
			end := r.r + at + i
			line := r.buf[r.r:end]
			r.r = end + 1
			if len(line) == 0 || line[len(line)-1] != '\r' {
				return nil, malformed("a line ends without CR")
			}
			if len(line)-1 > limit {
				return nil, malformed("a line of a chunk is too long")
			}
			return line[:len(line)-1], nil
		}
		if at = r.Buffered(); at > limit+1 {
			return nil, malformed("a line of a chunk is too long")
		}
		if err := r.fill(); err != nil {
			return nil, unexpected(err)
		}
	}
}

// unexpected is the error for an end that comes too early.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
