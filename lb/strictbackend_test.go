package lb

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// strictBackend is a server that takes what any recipient could take in one way
// only, by a reading of its own, and keeps a record. What it cannot take, it
// calls ambiguous.
type strictBackend struct {
	ln     net.Listener
	wg     sync.WaitGroup
	mu     sync.Mutex // guards record
	record []string
}

func newStrictBackend(t *testing.T) *strictBackend {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &strictBackend{ln: ln}
	b.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			b.wg.Go(func() { b.serve(c) })
		}
	})
	t.Cleanup(func() { ln.Close() })
	return b
}

// seen is the record, once all connections have ended.
func (b *strictBackend) seen() string {
	b.ln.Close()
	b.wg.Wait()
	return strings.Join(b.record, "; ")
}

func (b *strictBackend) add(s string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.record = append(b.record, s)
}

func (b *strictBackend) serve(c net.Conn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	s := &strictReader{r: bufio.NewReader(c), w: c}
	for {
		got, err := s.request()
		switch {
		case err == nil:
			b.add(got)
			answer := "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
			if strings.HasPrefix(got, "HEAD ") {
				answer = strings.TrimSuffix(answer, "ok")
			}
			io.WriteString(c, answer)
			continue
		case !s.begun:
		case errors.Is(err, errAmbiguous):
			b.add(fmt.Sprintf("AMBIGUOUS %v", err))
		default: // the end of the connection: nobody takes this for a request
			b.add("broken off")
		}
		return
	}
}

var errAmbiguous = errors.New("ambiguous")

// strictReader reads requests as RFC 9112 wants them to be sent, and nothing
// that a recipient may take besides.
type strictReader struct {
	r     *bufio.Reader
	w     io.Writer
	begun bool // a request has begun
}

var (
	strictLine  = regexp.MustCompile(`^([!#$%&'*+.^_|~0-9A-Za-z` + "`" + `-]+) ([/*][\x21-\x7e]*) HTTP/1\.1$`)
	strictField = regexp.MustCompile(`^([!#$%&'*+.^_|~0-9A-Za-z` + "`" + `-]+): ?([^\x00-\x20\x7f](?:[^\x00-\x08\x0a-\x1f\x7f]*[^\x00-\x20\x7f])?)?$`)
	strictChunk = regexp.MustCompile(`^(0|[1-9a-f][0-9a-f]{0,7})$`)
)

func ambiguous(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errAmbiguous, fmt.Sprintf(format, args...))
}

// line reads up to CRLF; neither may come alone.
func (s *strictReader) line() (string, error) {
	line, err := s.r.ReadString('\n')
	s.begun = s.begun || line != ""
	if err != nil {
		return "", err
	}
	text, ok := strings.CutSuffix(line, "\r\n")
	if !ok || strings.ContainsAny(text, "\r\n\x00") {
		return "", ambiguous("a line %q", line)
	}
	return text, nil
}

// fields reads fields up to an empty line. An underscore counts as a hyphen: some
// cannot tell one from the other.
func (s *strictReader) fields() (map[string][]string, error) {
	h := make(map[string][]string)
	for {
		line, err := s.line()
		if err != nil || line == "" {
			return h, err
		}
		m := strictField.FindStringSubmatch(line)
		if m == nil {
			return nil, ambiguous("a field %q", line)
		}
		name := strings.ToLower(m[1])
		if plain := strings.ReplaceAll(name, "_", "-"); plain != name && (plain == "content-length" || plain == "transfer-encoding") {
			return nil, ambiguous("a field %q", line)
		}
		h[name] = append(h[name], strings.TrimPrefix(line[len(m[1])+1:], " "))
	}
}

// request reads one and describes it.
func (s *strictReader) request() (string, error) {
	s.begun = false
	line, err := s.line()
	if err != nil {
		return "", err
	}
	start := strictLine.FindStringSubmatch(line)
	if start == nil {
		return "", ambiguous("a request line %q", line)
	}
	h, err := s.fields()
	if err != nil {
		return "", err
	}
	lengths, codings := h["content-length"], h["transfer-encoding"]
	switch {
	case len(h["host"]) != 1:
		return "", ambiguous("hosts %q", h["host"])
	case len(lengths)+len(codings) > 1:
		return "", ambiguous("lengths %q and codings %q", lengths, codings)
	case len(codings) == 1 && codings[0] != "chunked":
		return "", ambiguous("a coding %q", codings)
	}
	if len(h["expect"]) > 0 {
		io.WriteString(s.w, "HTTP/1.1 100 Continue\r\n\r\n")
	}
	what := fmt.Sprintf("%s %s %s", start[1], start[2], h["host"][0])
	switch {
	case len(codings) == 1:
		body, trailer, err := s.chunks()
		if len(trailer) > 0 {
			return fmt.Sprintf("%s chunks %q %v", what, body, trailer), err
		}
		return fmt.Sprintf("%s chunks %q", what, body), err
	case len(lengths) == 1:
		n, err := strconv.ParseUint(lengths[0], 10, 32)
		if err != nil || strconv.FormatUint(n, 10) != lengths[0] {
			return "", ambiguous("a length %q", lengths)
		}
		body := make([]byte, n)
		_, err = io.ReadFull(s.r, body)
		return fmt.Sprintf("%s length %q", what, body), err
	}
	return what, nil
}

func (s *strictReader) chunks() (body string, trailer map[string][]string, err error) {
	for {
		line, err := s.line()
		if err != nil {
			return "", nil, err
		}
		if !strictChunk.MatchString(line) {
			return "", nil, ambiguous("a chunk %q", line)
		}
		n, _ := strconv.ParseUint(line, 16, 32)
		if n == 0 {
			break
		}
		data := make([]byte, n+2)
		if _, err := io.ReadFull(s.r, data); err != nil {
			return "", nil, err
		}
		if string(data[n:]) != "\r\n" {
			return "", nil, ambiguous("the end of a chunk %q", data)
		}
		body += string(data[:n])
	}
	trailer, err = s.fields()
	for _, name := range []string{"content-length", "transfer-encoding", "host", "trailer"} {
		if len(trailer[name]) > 0 {
			return "", nil, ambiguous("a trailer %q", trailer)
		}
	}
	return body, trailer, err
}
