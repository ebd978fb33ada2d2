package load

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// response reads one response after the other and compares each body with what
// is expected, byte by byte. It takes no other framing than Content-Length.
type response struct {
	want []byte // the body
	head []byte // what has come of the head
	left []byte // what is to come of the body
	body bool   // the head is complete
}

// feed takes what was read. It returns whether a response is complete with it.
// More than one is an error: nobody asked for a second.
func (r *response) feed(p []byte) (done bool, err error) {
	if !r.body {
		seen := max(0, len(r.head)-3)
		if r.head = append(r.head, p...); len(r.head) > maxHead+len(r.want) {
			return false, errors.New("load: the head of a response is too long")
		}
		end := bytes.Index(r.head[seen:], []byte("\r\n\r\n"))
		if end < 0 {
			return false, nil
		}
		end += seen
		if err := checkHead(r.head[:end+2], len(r.want)); err != nil {
			return false, err
		}
		p = p[len(p)-(len(r.head)-end-4):]
		r.head, r.left, r.body = r.head[:0], r.want, true
	}
	if len(p) > len(r.left) {
		return false, fmt.Errorf("load: %d bytes after the end of a response", len(p)-len(r.left))
	}
	if !bytes.Equal(p, r.left[:len(p)]) {
		return false, errors.New("load: a body is not the backend's")
	}
	r.left = r.left[len(p):]
	if len(r.left) > 0 {
		return false, nil
	}
	r.body = false
	return true, nil
}

// checkHead wants status 200 and a Content-Length of size.
func checkHead(head []byte, size int) error {
	line, fields, _ := bytes.Cut(head, []byte("\r\n"))
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("load: the response is %q, want status 200", line)
	}
	for field := range bytes.SplitSeq(fields, []byte("\r\n")) {
		name, value, _ := bytes.Cut(field, []byte(":"))
		if !bytes.EqualFold(name, []byte("Content-Length")) {
			continue
		}
		if n, err := strconv.Atoi(string(bytes.TrimSpace(value))); err != nil || n != size {
			return fmt.Errorf("load: Content-Length is %q, want %d", bytes.TrimSpace(value), size)
		}
		return nil
	}
	return fmt.Errorf("load: no Content-Length in %q", head)
}
