package http1

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/palisade-go/palisade/internal/testcert"
)

// gathered holds back what is written until flush, so that several records of TLS
// come at once.
type gathered struct {
	net.Conn
	hold bool
	out  bytes.Buffer
}

func (g *gathered) Write(p []byte) (int, error) {
	if g.hold {
		return g.out.Write(p)
	}
	return g.Conn.Write(p)
}

func (g *gathered) flush() {
	g.hold = false
	g.Conn.Write(g.out.Bytes())
	g.out.Reset()
}

// secureBackend is backend over TLS, with a client that trusts it.
func secureBackend(t *testing.T, serve func(c *tls.Conn, below *gathered, r *bufio.Reader)) (c *Client, url string, conns *atomic.Int64) {
	t.Helper()
	ca := testcert.NewCA(t)
	conf := &tls.Config{Certificates: []tls.Certificate{ca.Issue(testcert.Leaf{Names: []string{"127.0.0.1"}})}}
	url, conns = backend(t, func(_ int64, c net.Conn, _ *bufio.Reader) {
		below := &gathered{Conn: c}
		secure := tls.Server(below, conf)
		if err := secure.Handshake(); err != nil {
			t.Error(err)
			return
		}
		serve(secure, below, bufio.NewReader(secure))
	})
	c = New(Config{IdleConns: 4, IdleTimeout: time.Minute, TLS: &tls.Config{RootCAs: ca.Pool()}})
	t.Cleanup(c.CloseIdleConnections)
	return c, strings.Replace(url, "http:", "https:", 1), conns
}

// TestSecureConnectionIsUsedAgain, also after bodies of any size.
func TestSecureConnectionIsUsedAgain(t *testing.T) {
	c, url, conns := secureBackend(t, func(c *tls.Conn, below *gathered, r *bufio.Reader) {
		for n := 0; ; n = (n*7 + 1) % 70_000 {
			if _, err := http.ReadRequest(r); err != nil {
				return
			}
			below.hold = n%3 == 0
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", n)
			io.WriteString(c, strings.Repeat("x", n))
			below.flush()
		}
	})
	for range 200 {
		if code, _, err := do(t, c, "GET", url, ""); code != 200 || err != nil {
			t.Fatalf("%d, %v", code, err)
		}
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
}

// TestUnsolicitedRecords: what a backend sends beyond its response, in the same
// record or the next, answers nobody's request, though crypto/tls has taken it from
// the kernel already.
func TestUnsolicitedRecords(t *testing.T) {
	const evil = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	for _, size := range []int{2, 100, bufferSize, 2*bufferSize - 38, 3 * bufferSize, 3*bufferSize + 17} {
		for _, parts := range []int{1, 2} {
			whole := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size) + strings.Repeat("x", size)
			c, url, conns := secureBackend(t, func(c *tls.Conn, below *gathered, r *bufio.Reader) {
				http.ReadRequest(r)
				below.hold = true
				if parts == 1 {
					io.WriteString(c, whole+evil)
				} else {
					io.WriteString(c, whole)
					io.WriteString(c, evil)
				}
				below.flush()
				r.Peek(1) // the next request; then the end
			})
			for range 4 {
				if _, body, err := do(t, c, "GET", url, ""); len(body) != size || err != nil {
					t.Errorf("%d bytes, in %d records: %d %.4q, %v", size, parts, len(body), body, err)
				}
			}
			if conns.Load() != 4 {
				t.Errorf("%d bytes, in %d records: %d connections for 4 requests", size, parts, conns.Load())
			}
		}
	}
}

// TestGoodbyeWithTheResponse: a connection whose end came with the response is not
// used for a request that must not be sent twice.
func TestGoodbyeWithTheResponse(t *testing.T) {
	c, url, conns := secureBackend(t, func(c *tls.Conn, below *gathered, r *bufio.Reader) {
		http.ReadRequest(r)
		below.hold = true
		io.WriteString(c, okay)
		c.CloseWrite()
		c.SetWriteDeadline(time.Time{}) // it lets nothing be written any more
		below.flush()
		r.Peek(1)
	})
	for range 4 {
		if code, body, err := do(t, c, "POST", url, ""); code != 200 || body != "ok" || err != nil {
			t.Errorf("%d %q, %v", code, body, err)
		}
	}
	if conns.Load() != 4 {
		t.Errorf("%d connections for 4 requests", conns.Load())
	}
}

// inPieces gives what it reads in pieces of random sizes.
type inPieces struct {
	net.Conn
	src io.Reader
	rnd *rand.Rand
}

func (c *inPieces) Read(p []byte) (int, error) {
	return c.src.Read(p[:1+c.rnd.IntN(min(len(p), 20_000))])
}

// TestRecords: whatever the sizes, of records, of what comes at once and of what is
// asked for, all bytes come, and never from two records at a time.
func TestRecords(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		var sent []byte
		var ends []int
		for range 1 + rnd.IntN(30) {
			size := rnd.IntN(1 << rnd.IntN(15))
			sent = append(sent, 23, 3, 3, byte(size>>8), byte(size))
			for range size {
				sent = append(sent, byte(rnd.Uint32()))
			}
			ends = append(ends, len(sent))
		}
		if seed%2 == 0 {
			sent = append(sent, 23, 3, 3) // the beginning of another
		}
		c := &records{Conn: &inPieces{src: bytes.NewReader(sent), rnd: rnd}}
		var got []byte
		for {
			p := make([]byte, 1+rnd.IntN(20_000))
			n, err := c.Read(p)
			if got = append(got, p[:n]...); err != nil {
				if err != io.EOF {
					t.Errorf("seed %d: %v", seed, err)
				}
				break
			}
			for len(ends) > 0 && len(got)-n >= ends[0] {
				ends = ends[1:]
			}
			if len(ends) > 0 && len(got) > ends[0] {
				t.Fatalf("seed %d: a read went beyond the end of a record", seed)
			}
		}
		if !bytes.Equal(got, sent) {
			t.Errorf("seed %d: %d bytes, want %d", seed, len(got), len(sent))
		}
		if !c.empty() {
			t.Errorf("seed %d: not empty at the end", seed)
		}
	}
}
