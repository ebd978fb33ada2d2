package http1

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// handoverWait bounds the last write of a body whose response has ended.
const handoverWait = 5 * time.Second

const (
	uploadSize = 32 << 10
	chunkRoom  = 8 // before a part of a body, for the line before a chunk
)

var uploadBuffers = sync.Pool{New: func() any { return new([chunkRoom + uploadSize + 2]byte) }}

// upload writes the body of a request in a goroutine of its own, so that the
// response can come first.
type upload struct {
	conn   *conn
	req    *http.Request
	length int64 // chunked, or bytes

	mu     sync.Mutex // guards the rest
	state  uploadState
	err    error // of state failed
	handed bool  // the response has ended: the connection is the upload's
}

type uploadState int

const (
	sending   uploadState = iota
	finishing             // all of it has been read, and is in the last write
	sent
	failed
)

// run ends with the body, or with the connection.
func (u *upload) run() {
	buf := uploadBuffers.Get().(*[chunkRoom + uploadSize + 2]byte)
	fromClient, err := u.copy(buf)
	uploadBuffers.Put(buf)
	u.req.Body.Close()
	u.mu.Lock()
	defer u.mu.Unlock()
	if err != nil {
		u.state, u.err = failed, err
		if fromClient || u.handed {
			u.conn.abort() // the backend waits for what never comes
		}
		return
	}
	if u.state = sent; u.handed {
		u.conn.nc.SetWriteDeadline(time.Time{})
		u.conn.client.put(u.conn)
	}
}

// copy says whether an error is one of reading the body.
func (u *upload) copy(buf *[chunkRoom + uploadSize + 2]byte) (fromClient bool, err error) {
	left := u.length
	for {
		p := buf[chunkRoom : chunkRoom+uploadSize]
		if left != chunked {
			p = p[:min(left, uploadSize)]
		}
		n, readErr := u.req.Body.Read(p)
		if readErr != nil && readErr != io.EOF {
			return true, readErr
		}
		out := p[:n]
		if left == chunked {
			if out, err = frame(buf, n, readErr == io.EOF, u.req.Trailer); err != nil {
				return true, err
			}
		} else if left -= int64(n); left > 0 && readErr == io.EOF {
			return true, fmt.Errorf("http1: the body is %d bytes short of its length", left)
		}
		last := left == 0 || readErr == io.EOF
		if last {
			u.mu.Lock()
			u.state = finishing
			u.mu.Unlock()
		}
		if len(out) > 0 {
			if _, err := u.conn.nc.Write(out); err != nil {
				return false, err
			}
		}
		if last {
			return false, nil
		}
	}
}

// frame makes a chunk of n bytes that are in buf after the room, in place, and
// the end of the body if it is the last.
func frame(buf *[chunkRoom + uploadSize + 2]byte, n int, last bool, trailer http.Header) ([]byte, error) {
	var out []byte
	if n > 0 {
		var size [chunkRoom]byte
		line := append(strconv.AppendInt(size[:0], int64(n), 16), "\r\n"...)
		begin := chunkRoom - len(line)
		copy(buf[begin:], line)
		end := chunkRoom + n
		copy(buf[end:], "\r\n")
		out = buf[begin : end+2]
	}
	if last {
		return appendEnd(out, trailer)
	}
	return out, nil
}

// detach is called when the response has ended and the connection could be used
// again but for the body. It says whether it can be now; if the last write is
// under way, the upload itself gives the connection back.
func (u *upload) detach() (idle, later bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch u.state {
	case sent:
		return true, false
	case finishing:
		u.handed = true
		u.conn.nc.SetWriteDeadline(time.Now().Add(handoverWait))
		return false, true
	}
	return false, false
}

// failure is what has ended the upload early.
func (u *upload) failure() error {
	if u == nil {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}
