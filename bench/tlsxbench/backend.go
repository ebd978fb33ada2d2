package tlsxbench

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync/atomic"

	"github.com/palisade-go/palisade/bench/internal/load"
	"github.com/palisade-go/palisade/lb"
)

// backend answers each request with 1 KB, in this process: it runs on the
// processors of the load, and is not what is measured.
type backend struct {
	addr            string
	srv             *lb.Server
	conns, requests atomic.Int64
}

// newBackend serves in plain text without a configuration.
func newBackend(conf *tls.Config) (*backend, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	b := &backend{addr: ln.Addr().String()}
	body := load.Body(1 << 10)
	b.srv = &lb.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		b.requests.Add(1)
		w.Header()["Content-Length"] = []string{"1024"}
		w.Write(body)
	})}
	ln = countingListener{ln, &b.conns}
	if conf != nil {
		ln = tls.NewListener(ln, conf)
	}
	go b.srv.Serve(ln)
	return b, nil
}

// counts is how many connections and requests there were.
func (b *backend) counts() (conns, requests int64) { return b.conns.Load(), b.requests.Load() }

// countingListener counts what it accepts.
type countingListener struct {
	net.Listener
	n *atomic.Int64
}

func (l countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.n.Add(1)
	}
	return conn, err
}

func (b *bench) startBackends() (err error) {
	if b.plain, err = newBackend(nil); err != nil {
		return err
	}
	b.secure, err = newBackend(&tls.Config{
		Certificates: []tls.Certificate{b.certs.server}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: b.certs.pool,
		MinVersion: tls.VersionTLS13,
	})
	if err != nil {
		b.plain.srv.Close()
	}
	return err
}

func (b *bench) stopBackends() {
	b.plain.srv.Close()
	b.secure.srv.Close()
}
