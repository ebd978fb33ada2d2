package lb

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// mixedPatience is how long an exchange may take; one that takes longer hangs.
const mixedPatience = 60 * time.Second

// mixedClient is one client of a mixedLoad.
type mixedClient struct {
	load *mixedLoad
	rng  *rand.Rand
	tls  bool

	// Of the connection at the time.
	raw net.Conn
	nc  net.Conn
	r   *bufio.Reader
}

func newMixedClient(m *mixedLoad, i int) *mixedClient {
	return &mixedClient{load: m, rng: rand.New(rand.NewPCG(m.seed, uint64(i)+1)), tls: i%4 == 3}
}

func (c *mixedClient) one(n int) bool { return c.rng.IntN(n) == 0 }

func (c *mixedClient) nonce() string { return fmt.Sprintf("%016x", c.rng.Uint64()) }

// size is of a body: often small, at times larger than all buffers, and near the
// bounds of some.
func (c *mixedClient) size() int {
	switch c.rng.IntN(6) {
	case 0:
		return c.rng.IntN(3)
	case 1:
		return 2048 + c.rng.IntN(3) - 1
	case 2:
		return 4096 + c.rng.IntN(3) - 1
	case 3:
		return c.rng.IntN(300 << 10)
	}
	return c.rng.IntN(2000)
}

func (c *mixedClient) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := c.dial(); err != nil {
			c.load.mismatch("connecting to the front: %v", err)
			return
		}
		for range 1 + c.rng.IntN(20) {
			if ctx.Err() != nil || !c.exchange() {
				break
			}
		}
		c.hangUp()
	}
}

// hangUp closes the connection, at times by a reset.
func (c *mixedClient) hangUp() {
	if c.one(3) {
		c.raw.(*net.TCPConn).SetLinger(0)
	}
	c.raw.Close()
}

func (c *mixedClient) dial() error {
	addr := c.load.plain
	if c.tls {
		addr = c.load.secure
	}
	raw, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	c.raw, c.nc = raw, raw
	if c.tls {
		c.nc = tls.Client(raw, c.load.roots)
	}
	c.r = bufio.NewReader(c.nc)
	return nil
}

// exchange says whether the connection may be used again.
func (c *mixedClient) exchange() bool {
	c.raw.SetDeadline(time.Now().Add(mixedPatience))
	switch n := c.rng.IntN(20); {
	case n < 3:
		return c.pipeline()
	case n < 5:
		c.giveUp()
		return false
	case n == 5:
		c.upgrade()
		return false
	}
	q := c.request()
	return c.roundTrip(q)
}

// mixedRequest is a request and what it must get.
type mixedRequest struct {
	nonce    string
	method   string
	how      string
	size     int // of the response's body
	sent     int // of the request's, -1 for none
	chunked  bool
	slow     bool // to send
	slowRead bool
}

func (c *mixedClient) request() mixedRequest {
	q := mixedRequest{nonce: c.nonce(), method: "GET", size: c.size(), sent: -1, slowRead: c.one(10)}
	switch c.rng.IntN(10) {
	case 0:
		q.how = "slow"
	case 1:
		q.how = "busy"
	case 2:
		q.how = "break"
	case 3, 4, 5:
		q.how = "chunked"
	}
	switch c.rng.IntN(8) {
	case 0:
		q.method = "HEAD"
	case 1, 2, 3:
		q.method = []string{"POST", "PUT"}[c.rng.IntN(2)]
		q.sent, q.chunked, q.slow = c.size(), c.one(2), c.one(6)
		if c.one(10) {
			q.how = "early"
		}
	}
	return q
}

func (q *mixedRequest) head() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s /?how=%s&size=%d HTTP/1.1\r\nHost: h\r\nX-Nonce: %s\r\nX-Sent: %d\r\n", q.method, q.how, q.size, q.nonce, max(0, q.sent))
	switch {
	case q.chunked:
		s.WriteString("Transfer-Encoding: chunked\r\n")
	case q.sent >= 0:
		fmt.Fprintf(&s, "Content-Length: %d\r\n", q.sent)
	}
	s.WriteString("\r\n")
	return s.String()
}

// send writes head and body; parts is how large the pieces are.
func (q *mixedRequest) send(w io.Writer, parts int) error {
	if _, err := io.WriteString(w, q.head()); err != nil || q.sent < 0 {
		return err
	}
	body := &nonceReader{nonce: q.nonce}
	for rest := q.sent; rest > 0; {
		n := min(rest, parts)
		rest -= n
		piece := make([]byte, n)
		body.Read(piece)
		if q.chunked {
			piece = fmt.Appendf(nil, "%x\r\n%s\r\n", n, piece)
		}
		if _, err := w.Write(piece); err != nil {
			return err
		}
		if q.slow {
			time.Sleep(time.Millisecond)
		}
	}
	if q.chunked {
		_, err := io.WriteString(w, "0\r\n\r\n")
		return err
	}
	return nil
}

func (c *mixedClient) roundTrip(q mixedRequest) bool {
	parts := 1 + c.rng.IntN(64<<10)
	if q.slow {
		parts = max(parts, q.sent/20+1)
	}
	var sent error
	var wg sync.WaitGroup
	wg.Go(func() { sent = q.send(c.nc, parts) })
	again := c.receive(q)
	if !again {
		c.raw.Close() // or a body that nobody reads is sent for ever
	}
	wg.Wait()
	return again && sent == nil
}

// receive reads the response to q and says whether another may follow.
func (c *mixedClient) receive(q mixedRequest) bool {
	m := c.load
	res, err := http.ReadResponse(c.r, &http.Request{Method: q.method})
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			m.mismatch("nonce %s: no response to %+v", q.nonce, q)
		}
		m.broken.Add(1)
		return false
	}
	if got := res.Header.Get("X-Front"); got != q.nonce {
		m.mismatch("nonce %s: the front's field is %q", q.nonce, got)
	}
	if res.StatusCode != http.StatusOK {
		if res.StatusCode < 500 && q.how != "early" {
			m.mismatch("nonce %s: status %d", q.nonce, res.StatusCode)
		}
		m.refused.Add(1)
		if q.how == "busy" {
			m.refused.Add(-1)
		}
		_, err := io.Copy(io.Discard, res.Body)
		return err == nil && !res.Close
	}
	if got := res.Header.Get("X-Nonce"); got != q.nonce {
		m.mismatch("nonce %s: got the response to %q", q.nonce, got)
	}
	pause := noPause
	if q.slowRead {
		left := 50
		pause = func() {
			if left--; left > 0 {
				time.Sleep(time.Millisecond)
			}
		}
	}
	n, same, err := readNonce(res.Body, q.nonce, pause)
	want := int64(q.size)
	if q.method == "HEAD" {
		want = 0
	}
	switch {
	case !same:
		m.mismatch("nonce %s: bytes of another are among the %d of the body (%v)", q.nonce, n, err)
	case errors.Is(err, os.ErrDeadlineExceeded):
		m.mismatch("nonce %s: the body stops after %d bytes of %d", q.nonce, n, want)
	case err != nil:
		m.broken.Add(1)
		return false
	case n != want:
		m.mismatch("nonce %s: %d bytes, want %d: %+v", q.nonce, n, want, q)
	case q.how == "break" && want > 0:
		m.mismatch("nonce %s: a response that was broken off has come to an end: %+v", q.nonce, q)
	}
	m.served.Add(1)
	return !res.Close
}

// pipeline sends several requests at once.
func (c *mixedClient) pipeline() bool {
	var all []mixedRequest
	var out strings.Builder
	for range 2 + c.rng.IntN(5) {
		q := c.request()
		q.slow, q.size, q.sent = false, min(q.size, 20_000), min(q.sent, 5_000)
		all = append(all, q)
		q.send(&out, 1+c.rng.IntN(2000))
	}
	var sent error
	var wg sync.WaitGroup
	wg.Go(func() { _, sent = io.WriteString(c.nc, out.String()) })
	again := true
	for _, q := range all {
		if again = c.receive(q); !again {
			c.raw.Close()
			break
		}
	}
	wg.Wait()
	return again && sent == nil
}

// giveUp goes away in the middle of a request or of its response.
func (c *mixedClient) giveUp() {
	q := c.request()
	q.slow = false
	var out strings.Builder
	q.send(&out, 1+c.rng.IntN(2000))
	c.load.given.Add(1)
	text := out.String()
	if c.one(2) {
		text = text[:c.rng.IntN(len(text))]
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer c.hangUp()
	wg.Go(func() { io.WriteString(c.nc, text) })
	switch c.rng.IntN(3) {
	case 0:
		time.Sleep(time.Duration(c.rng.IntN(3000)) * time.Microsecond)
	case 1:
		c.raw.SetReadDeadline(time.Now().Add(time.Duration(c.rng.IntN(5000)) * time.Microsecond))
		io.CopyN(io.Discard, c.r, int64(c.rng.IntN(q.size+200)))
	}
}

// upgrade speaks with the backend for a while.
func (c *mixedClient) upgrade() {
	m, nonce := c.load, c.nonce()
	fmt.Fprintf(c.nc, "GET /?how=upgrade HTTP/1.1\r\nHost: h\r\nX-Nonce: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n", nonce)
	res, err := http.ReadResponse(c.r, nil)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		m.mismatch("nonce %s: no response to an upgrade", nonce)
		return
	case err != nil:
		m.broken.Add(1)
		return
	case res.StatusCode >= 500:
		m.refused.Add(1)
		return
	case res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("X-Nonce") != nonce:
		m.mismatch("nonce %s: %d to an upgrade, of %q", nonce, res.StatusCode, res.Header.Get("X-Nonce"))
		return
	}
	m.upgraded.Add(1)
	size := c.size()
	var wg sync.WaitGroup
	wg.Go(func() {
		io.CopyN(c.nc, &nonceReader{nonce: nonce}, int64(size))
		if half, ok := c.nc.(interface{ CloseWrite() error }); ok {
			half.CloseWrite()
		}
	})
	n, same, err := readNonce(c.r, nonce, noPause)
	if !same || n > int64(size) || errors.Is(err, os.ErrDeadlineExceeded) {
		m.mismatch("nonce %s: %d bytes came back of %d, of its nonce %v, %v", nonce, n, size, same, err)
	}
	c.raw.Close()
	wg.Wait()
}
