package http1

import (
	"bytes"
	"errors"
	"io"
	"net/http"

	"golang.org/x/net/http/httpguts"
)

const (
	// maxChunkLine bounds a chunk's size and extensions.
	maxChunkLine = 1 << 10
	// maxOverhead bounds what chunks may cost beyond their data, as a debt that
	// data repays: so endless tiny chunks with long extensions end.
	maxOverhead = 16 << 10
)

var errClosed = errors.New("http1: read of a closed body")

// Body is the body of a message that was read. It ends with io.EOF exactly where
// the message does; if the connection ends before, with io.ErrUnexpectedEOF. It
// is not safe for concurrent use.
type Body struct {
	r        *Reader
	length   int64        // chunked, untilClose, or bytes in all
	left     int64        // bytes of the body or chunk that have not been read
	open     bool         // a chunk's CRLF is to come
	overhead int          // the debt of the chunks
	trailer  *http.Header // of the message
	err      error        // the end, once it was found
	from     *Response    // that the body is a part of; nil of a request
	conn     *conn        // told of the end, once; nil if there is no client
}

// Read implements io.Reader.
func (b *Body) Read(p []byte) (n int, err error) {
	switch {
	case b.err != nil:
		return 0, b.err
	case len(p) == 0:
		return 0, nil
	case b.length == chunked:
		n, err = b.readChunks(p)
	case b.length == untilClose:
		n, err = b.r.Read(p)
	default:
		n, err = b.readBytes(p)
		if err == nil && b.left == 0 {
			err = io.EOF
		}
	}
	if err != nil {
		b.end(err)
		if n > 0 && err != io.EOF {
			err = nil // it comes with the next call
		}
	}
	return n, err
}

// Unread is how many bytes of the body are certain to come yet; less, if it is
// chunked.
func (b *Body) Unread() int64 { return b.left }

// Close implements io.Closer. What has not been read stays on the connection,
// which is of no use then.
func (b *Body) Close() error {
	if b.err == nil {
		b.end(errClosed)
	}
	return nil
}

func (b *Body) end(err error) {
	b.err = err
	b.r = nil
	if b.conn != nil {
		b.conn.finish(err == io.EOF && !b.from.Close)
	}
}

// readBytes reads of the bytes that are left.
func (b *Body) readBytes(p []byte) (int, error) {
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, unexpected(err)
}

// readChunks waits for the first data only: then it goes on as far as it can.
func (b *Body) readChunks(p []byte) (n int, err error) {
	for n < len(p) {
		if b.left == 0 {
			if n > 0 && !b.nextIsBuffered() {
				break
			}
			if err := b.nextChunk(); err != nil {
				return n, err
			}
		}
		if n > 0 && b.r.Buffered() == 0 {
			break
		}
		m, err := b.readBytes(p[n:])
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

// nextIsBuffered says whether nextChunk will not wait.
func (b *Body) nextIsBuffered() bool {
	s := b.r.buf[b.r.r:b.r.w]
	if b.open {
		s = s[min(2, len(s)):]
	}
	i := bytes.IndexByte(s, '\n')
	if i < 1 || s[0] != '0' {
		return i >= 1
	}
	return bytes.Contains(s[i-1:], []byte("\r\n\r\n")) // with the trailer
}

// nextChunk reads the line before a chunk, or the end of the body (RFC 9112,
// section 7.1).
func (b *Body) nextChunk() error {
	if b.open {
		line, err := b.r.line(0)
		if err != nil {
			return err
		}
		if len(line) > 0 {
			return malformed("a chunk is longer than its size")
		}
		b.open = false
	}
	line, err := b.r.line(maxChunkLine)
	if err != nil {
		return err
	}
	if b.left, err = parseChunkLine(line); err != nil {
		return err
	}
	if b.left == 0 {
		return b.readTrailer()
	}
	b.open = true
	b.overhead += len(line) + 4 - 16
	if b.overhead -= int(min(2*b.left, maxOverhead)); b.overhead < 0 {
		b.overhead = 0
	}
	if b.overhead > maxOverhead {
		return malformed("chunks with more around them than in them")
	}
	return nil
}

func parseChunkLine(line []byte) (int64, error) {
	var n uint64
	i := 0
	for ; i < len(line); i++ {
		c := line[i]
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c|0x20 >= 'a' && c|0x20 <= 'f':
			c = c | 0x20 - 'a' + 10
		default:
			c = 0xff
		}
		if c == 0xff {
			break
		}
		if n >= 1<<59 || i >= 16 {
			return 0, malformed("the size of a chunk")
		}
		n = n<<4 | uint64(c)
	}
	if i == 0 {
		return 0, malformed("the size of a chunk")
	}
	if ext := line[i:]; len(ext) > 0 {
		if ext[0] != ';' {
			return 0, malformed("the size of a chunk")
		}
		for _, c := range ext {
			if classes[c]&inValue == 0 {
				return 0, malformed("a chunk's extension")
			}
		}
	}
	return int64(n), nil
}

// readTrailer ends with io.EOF if all is well.
func (b *Body) readTrailer() error {
	text, lines, err := b.r.section(maxTrailer)
	if err != nil {
		return unexpected(err)
	}
	if lines == 0 {
		return io.EOF
	}
	h := make(http.Header, min(lines, maxFields))
	if err := fields(h, text, lines); err != nil {
		return err
	}
	for name, values := range h {
		if !httpguts.ValidTrailerHeader(name) || name == "Host" {
			continue // RFC 9110, section 6.5.1
		}
		if *b.trailer == nil {
			*b.trailer = make(http.Header, len(h))
		}
		(*b.trailer)[name] = values
	}
	return io.EOF
}
