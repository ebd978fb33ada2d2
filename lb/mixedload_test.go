package lb

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/palisade-go/palisade/internal/leaktest"
)

// mixedLoad is a Server before a Proxy before backends, and clients that do all
// that clients do: keep-alive, pipelining, bodies in chunks and of known length,
// upgrades, slowness in both directions, and going away at any moment. Backends
// break off responses, and die and come back. Every body, of a request and of a
// response, consists of its request's nonce, so that no byte of one exchange can
// pass for one of another.
type mixedLoad struct {
	t        *testing.T
	seed     uint64
	backends []*mixedBackend
	pool     *Pool
	plain    string // addresses of the front
	secure   string
	roots    *tls.Config

	served, refused, broken, given, upgraded atomic.Int64
	wrong                                    atomic.Int64
}

// wrongsTold is how many mismatches are described; all are counted.
const wrongsTold = 10

// mismatch is what must not happen.
func (m *mixedLoad) mismatch(format string, args ...any) {
	if m.wrong.Add(1) <= wrongsTold {
		m.t.Errorf(format, args...)
	}
}

// nonceReader is an endless body of a nonce.
type nonceReader struct {
	nonce string
	at    int
}

func (r *nonceReader) Read(p []byte) (int, error) {
	for n := 0; n < len(p); {
		k := copy(p[n:], r.nonce[r.at:])
		n += k
		r.at = (r.at + k) % len(r.nonce)
	}
	return len(p), nil
}

// readNonce reads a body to its end and says how long it is and whether all of it
// is the nonce's.
func readNonce(r io.Reader, nonce string, pause func()) (size int64, same bool, err error) {
	want := nonceReader{nonce: nonce}
	got, expected := make([]byte, 8<<10), make([]byte, 8<<10)
	for same = true; ; {
		n, err := r.Read(got)
		want.Read(expected[:n])
		same = same && string(got[:n]) == string(expected[:n])
		size += int64(n)
		if err == io.EOF {
			return size, same, nil
		}
		if err != nil {
			return size, same, err
		}
		pause()
	}
}

func noPause() {}

// mixedBackend is a server that can die and come back at its address.
type mixedBackend struct {
	load *mixedLoad
	addr string

	mu       sync.Mutex // guards the rest
	server   *http.Server
	ended    chan struct{}
	hijacked map[net.Conn]struct{}
}

func (b *mixedBackend) start() error {
	ln, err := net.Listen("tcp", b.addr)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.addr = ln.Addr().String()
	server, ended := &http.Server{Handler: b, ErrorLog: log.New(io.Discard, "", 0)}, make(chan struct{})
	b.server, b.ended, b.hijacked = server, ended, make(map[net.Conn]struct{})
	go func() {
		defer close(ended)
		server.Serve(ln)
	}()
	return nil
}

// die ends all connections at once.
func (b *mixedBackend) die() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.server.Close()
	<-b.ended
	for c := range b.hijacked {
		c.Close()
	}
	b.hijacked = nil
}

// ServeHTTP does as the query says.
func (b *mixedBackend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	nonce, how := r.Header.Get("X-Nonce"), q.Get("how")
	size, _ := strconv.ParseInt(q.Get("size"), 10, 64)
	switch {
	case r.URL.Path == "/health":
		return
	case how == "upgrade":
		b.upgrade(w, nonce)
		return
	case how == "early": // an answer before the request has come
		w.Header().Set("Connection", "close")
	default:
		n, same, err := readNonce(r.Body, nonce, noPause)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if sent := r.Header.Get("X-Sent"); !same || strconv.FormatInt(n, 10) != sent {
			b.load.mismatch("nonce %s: the backend got a body of %d bytes, of its nonce %v; sent were %s", nonce, n, same, sent)
		}
	}
	w.Header().Set("X-Nonce", nonce)
	switch how {
	case "chunked":
	case "busy":
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	default:
		w.Header().Set("Content-Length", q.Get("size"))
	}
	body := io.LimitReader(&nonceReader{nonce: nonce}, size)
	switch how {
	case "break":
		io.CopyN(w, body, size/2)
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	case "slow":
		for range 5 {
			io.CopyN(w, body, size/5)
			http.NewResponseController(w).Flush()
			time.Sleep(2 * time.Millisecond)
		}
	}
	io.Copy(w, body)
}

// upgrade says back what it is told.
func (b *mixedBackend) upgrade(w http.ResponseWriter, nonce string) {
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer c.Close()
	b.mu.Lock()
	alive := b.hijacked != nil
	if alive {
		b.hijacked[c] = struct{}{}
	}
	b.mu.Unlock()
	if !alive {
		return
	}
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.hijacked, c)
	}()
	fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Nonce: %s\r\n\r\n", nonce)
	io.Copy(c, rw)
}

// openFiles counts the descriptors of this process, or says no where the system
// does not tell.
func openFiles() (int, bool) {
	files, err := os.ReadDir("/proc/self/fd")
	return len(files), err == nil
}

// runMixedLoad lets it all happen for a time. At the end nothing may be left:
// no goroutine, no descriptor, no request that counts as in flight.
func runMixedLoad(t *testing.T, length time.Duration, clients int, seed uint64) {
	leaktest.Check(t)
	m := &mixedLoad{t: t, seed: seed}
	t.Logf("seed %d", seed)
	http.DefaultClient.CloseIdleConnections()
	files, counted := openFiles()
	stop := m.start()
	ctx, cancel := context.WithTimeout(t.Context(), length)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { m.trouble(ctx) })
	for i := range clients {
		wg.Go(func() { newMixedClient(m, i).run(ctx) })
	}
	wg.Wait()
	eventually(t, "no request is in flight", func() bool {
		for _, s := range m.pool.Status() {
			if s.InFlight != 0 {
				return false
			}
		}
		return m.pool.Queued() == 0
	})
	stop()
	t.Logf("%d served, %d refused, %d broken off by backends, %d given up by clients, %d upgraded",
		m.served.Load(), m.refused.Load(), m.broken.Load(), m.given.Load(), m.upgraded.Load())
	if n := m.wrong.Load(); n > 0 {
		t.Errorf("%d mismatches", n)
	}
	for what, n := range map[string]int64{
		"served": m.served.Load(), "broken off": m.broken.Load(), "given up": m.given.Load(), "upgraded": m.upgraded.Load(),
	} {
		if n == 0 {
			t.Errorf("no request was %s, so that the test says nothing of them", what)
		}
	}
	if served, refused := m.served.Load(), m.refused.Load(); refused > served/4 {
		t.Errorf("%d requests were refused and %d served, want few refused: one backend is down at a time", refused, served)
	}
	if counted {
		eventually(t, "the descriptors are as many as before", func() bool {
			runtime.GC() // finalizers close what tests have dropped
			now, _ := openFiles()
			return now <= files
		})
	}
}

// start returns what ends it all.
func (m *mixedLoad) start() (stop func()) {
	t := m.t
	conf := PoolConfig{
		Health: &HealthCheck{Path: "/health", Interval: 100 * time.Millisecond}, Outlier: new(OutlierDetection),
		MaxInFlight: 100, Logger: slog.New(slog.DiscardHandler),
	}
	for i := range 4 {
		b := &mixedBackend{load: m, addr: "127.0.0.1:0"}
		if err := b.start(); err != nil {
			t.Fatal(err)
		}
		m.backends = append(m.backends, b)
		conf.Backends = append(conf.Backends, BackendConfig{ID: fmt.Sprint("b", i), URL: "http://" + b.addr})
	}
	m.pool = poolOf(t, conf, 0)
	proxy, err := NewProxy(ProxyConfig{
		Pool: m.pool, RetryBody: 32 << 10, RetryStatus: []int{http.StatusServiceUnavailable}, Hedge: &Hedge{Delay: 20 * time.Millisecond},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	server := &Server{ErrorLog: slog.New(slog.DiscardHandler), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Front", r.Header.Get("X-Nonce"))
		proxy.ServeHTTP(&statusWriter{ResponseWriter: w}, r)
	})}
	cert, roots := authority()
	m.roots = roots
	ended := make(chan error, 2)
	listen := func(conf *tls.Config) string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := ln.Addr().String()
		if conf != nil {
			ln = tls.NewListener(ln, conf)
		}
		go func() { ended <- server.Serve(ln) }()
		return addr
	}
	m.plain = listen(nil)
	m.secure = listen(&tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}})
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := server.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		for range 2 {
			<-ended
		}
		m.pool.Close()
		for _, b := range m.backends {
			b.die()
		}
	}
}

// trouble kills one backend at a time and starts it again.
func (m *mixedLoad) trouble(ctx context.Context) {
	rng := rand.New(rand.NewPCG(m.seed, 0))
	for pauseFor(ctx, time.Duration(100+rng.IntN(500))*time.Millisecond) {
		b := m.backends[rng.IntN(len(m.backends))]
		b.die()
		pauseFor(ctx, time.Duration(rng.IntN(300))*time.Millisecond)
		for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
			err := b.start()
			if err == nil {
				break
			}
			if time.Now().After(end) || !strings.Contains(err.Error(), "address already in use") {
				m.t.Error(err)
				return
			}
		}
	}
}

// TestServerUnderMixedLoad is the short form of TestSoakServer.
func TestServerUnderMixedLoad(t *testing.T) {
	runMixedLoad(t, 4*time.Second, 16, rand.Uint64())
}
