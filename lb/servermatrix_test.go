package lb

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/palisade-go/palisade/internal/memnet"
	"github.com/palisade-go/palisade/internal/testcert"
)

// front is what both servers can do.
type front interface {
	Serve(net.Listener) error
	Shutdown(context.Context) error
	Close() error
	RegisterOnShutdown(func())
}

// frontConf is what both can be told.
type frontConf struct {
	handler                       http.Handler
	readHeader, read, write, idle time.Duration
	maxHeaderBytes                int
	h2c                           bool
	connState                     func(net.Conn, http.ConnState)
	baseContext                   func(net.Listener) context.Context
	connContext                   func(context.Context, net.Conn) context.Context
	onRefused                     func(Event) // net/http tells nobody
	inMemory                      bool        // for tests in a bubble of time
	nextProtos                    []string
}

// mode is one way to serve. Those of net/http say what is right.
type mode struct {
	name  string
	tls   bool
	front func(frontConf, *logBuffer) front
}

var matrixModes = []mode{
	{"nethttp", false, newNetHTTP},
	{"nethttp tls", true, newNetHTTP},
	{"palisade", false, newPalisade},
	{"palisade tls", true, newPalisade},
}

// matrix runs a test under each mode.
func matrix(t *testing.T, f func(*testing.T, mode)) {
	for _, m := range matrixModes {
		t.Run(strings.ReplaceAll(m.name, " ", "-"), func(t *testing.T) { f(t, m) })
	}
}

func newNetHTTP(c frontConf, l *logBuffer) front {
	s := &http.Server{
		Handler: c.handler, ReadHeaderTimeout: c.readHeader, ReadTimeout: c.read, WriteTimeout: c.write, IdleTimeout: c.idle,
		MaxHeaderBytes: c.maxHeaderBytes, ConnState: c.connState, BaseContext: c.baseContext, ConnContext: c.connContext, ErrorLog: log.New(l, "", 0),
	}
	if c.h2c {
		s.Protocols = new(http.Protocols)
		s.Protocols.SetHTTP1(true)
		s.Protocols.SetUnencryptedHTTP2(true)
	}
	return s
}

func newPalisade(c frontConf, l *logBuffer) front {
	return &Server{
		Handler: c.handler, ReadHeaderTimeout: c.readHeader, ReadTimeout: c.read, WriteTimeout: c.write, IdleTimeout: c.idle,
		MaxHeaderBytes: c.maxHeaderBytes, ConnState: c.connState, BaseContext: c.baseContext, ConnContext: c.connContext,
		ErrorLog: slog.New(slog.NewTextHandler(l, nil)), UnencryptedHTTP2: c.h2c, OnRefused: c.onRefused,
	}
}

// logBuffer is a log that a test may read while it is written.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// served is a server at work.
type served struct {
	t      *testing.T
	tls    bool
	front  front
	addr   string
	log    logBuffer
	memory *memnet.Listener // nil: TCP
	ended  chan error       // what Serve has returned
	roots  *tls.Config
}

// authority signs for all tests: keys are dear.
var authority = sync.OnceValues(func() (tls.Certificate, *tls.Config) {
	ca := testcert.NewCA(&testing.T{})
	return ca.Issue(testcert.Leaf{Names: []string{"127.0.0.1", "h"}}), &tls.Config{RootCAs: ca.Pool(), ServerName: "h"}
})

// serve starts a server that ends with the test.
func (m mode) serve(t *testing.T, c frontConf) *served {
	t.Helper()
	s := &served{t: t, tls: m.tls, ended: make(chan error, 1)}
	var ln net.Listener
	if c.inMemory {
		s.memory = memnet.Listen("10.0.0.1:80")
		ln = s.memory
	} else {
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ln = tcp
	}
	s.addr = ln.Addr().String()
	if m.tls {
		cert, roots := authority()
		s.roots = roots.Clone()
		if c.nextProtos == nil {
			c.nextProtos = []string{"http/1.1"}
		}
		ln = tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: c.nextProtos})
	}
	s.front = m.front(c, &s.log)
	go func() { s.ended <- s.front.Serve(ln) }()
	t.Cleanup(func() {
		s.front.Close()
		if err := <-s.ended; err != http.ErrServerClosed {
			t.Errorf("Serve returned %v, want %v", err, http.ErrServerClosed)
		}
		s.ended <- http.ErrServerClosed
	})
	return s
}

// open makes a connection of the transport below TLS.
func (s *served) open() net.Conn {
	s.t.Helper()
	var c net.Conn
	var err error
	if s.memory != nil {
		c, err = s.memory.DialContext(s.t.Context(), "tcp", s.addr)
	} else {
		c, err = net.Dial("tcp", s.addr)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	return c
}

// dial connects by hand.
func (s *served) dial() *conn {
	s.t.Helper()
	c := s.open()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if s.tls {
		c = tls.Client(c, s.roots)
	}
	return &conn{s.t, c, bufio.NewReader(c)}
}

// client is an HTTP client that trusts the server and speaks HTTP/1.1 only.
func (s *served) client() *http.Client {
	tr := &http.Transport{TLSClientConfig: s.roots.Clone(), DisableCompression: true}
	if s.memory != nil {
		tr.DialContext = s.memory.DialContext
	}
	s.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (s *served) url(path string) string {
	if s.tls {
		return "https://" + s.addr + path
	}
	return "http://" + s.addr + path
}

// eventually polls for something that another goroutine does.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not after 10 s: %s", what)
		}
	}
}
