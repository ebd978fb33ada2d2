package tlsx

import (
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/palisade-go/palisade/internal/testcert"
)

// swapper has both sides of mutual TLS in files that are replaced while they are
// used.
type swapper struct {
	serverCert, serverKey, clientCert, clientKey string
	clientCA, serverCA                           string // whom the other side trusts
}

func newSwapper(t *testing.T) swapper {
	t.Helper()
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	return swapper{file("server.pem"), file("server.key"), file("client.pem"), file("client.key"), file("clients.pem"), file("servers.pem")}
}

var webURI = []string{"spiffe://test/web"}

// leaves replaces the certificates of both sides.
func (s swapper) leaves(t *testing.T, ca *testcert.CA) {
	t.Helper()
	server := pairOf(t, ca, testcert.Leaf{Names: []string{"web.test"}, URIs: webURI})
	client := pairOf(t, ca, testcert.Leaf{CommonName: "balancer"})
	// The pair does not match in between.
	replace(t, s.serverKey, server.key)
	replace(t, s.serverCert, server.cert)
	replace(t, s.clientKey, client.key)
	replace(t, s.clientCert, client.cert)
}

// trust replaces the authorities of both sides.
func (s swapper) trust(t *testing.T, cas ...*testcert.CA) {
	t.Helper()
	var pem []byte
	for _, ca := range cas {
		pem = append(pem, ca.PEM()...)
	}
	replace(t, s.clientCA, pem)
	replace(t, s.serverCA, pem)
}

// TestHotSwap replaces leaves, client authorities and backend roots in files, as
// in a rotation of the authority, while connections are made at 300 a second, or
// as many as the machine can: no handshake fails.
func TestHotSwap(t *testing.T) {
	const rate, rounds, workers = 300, 3, 16
	s := newSwapper(t)
	ca := testcert.NewCA(t)
	s.leaves(t, ca)
	s.trust(t, ca)
	quiet := slog.New(slog.DiscardHandler)
	serverCert, err1 := Files(s.serverCert, s.serverKey, quiet)
	clientCert, err2 := Files(s.clientCert, s.clientKey, quiet)
	clientTrust, err3 := TrustFile(s.clientCA, quiet)
	serverTrust, err4 := TrustFile(s.serverCA, quiet)
	for _, err := range []error{err1, err2, err3, err4} {
		if err != nil {
			t.Fatal(err)
		}
	}
	term := newTerminator(t, Config{Certs: []CertSource{serverCert}, Policies: []Policy{{Client: &ClientAuth{Mode: Required, Roots: clientTrust}}}})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, term.Listener(ln), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") }))
	client, err := BackendTLS(Backend{Roots: serverTrust, Cert: clientCert, Peer: PeerMatcher{URIs: webURI}, ServerName: "web.test"})
	if err != nil {
		t.Fatal(err)
	}
	client.ClientSessionCache = nil // full handshakes
	var done, failed atomic.Int64
	var wg sync.WaitGroup
	var visiting sync.RWMutex // held for writing to let those end that have begun
	stop, turn := make(chan struct{}), make(chan struct{})
	for range workers {
		wg.Go(func() {
			for range turn {
				visiting.RLock()
				err := visit(ln.Addr().String(), client)
				visiting.RUnlock()
				if done.Add(1); err != nil {
					failed.Add(1)
					t.Errorf("handshake %d: %v", done.Load(), err)
				}
			}
		})
	}
	wg.Go(func() {
		defer close(turn)
		tick := time.NewTicker(time.Second / rate)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				turn <- struct{}{}
			}
		}
	})
	// seen returns when a change is there and the handshakes that began before it
	// have ended.
	seen := func(what string, is func() bool) {
		t.Helper()
		for start := time.Now(); !is(); time.Sleep(time.Millisecond) {
			if time.Since(start) > 10*time.Second {
				t.Errorf("%s not seen", what)
				return
			}
		}
		visiting.Lock()
		visiting.Unlock() //lint:ignore SA2001 waiting is all
		for n := done.Load() + rate/3; done.Load() < n && !t.Failed(); time.Sleep(time.Millisecond) {
		}
	}
	for range rounds {
		next := testcert.NewCA(t)
		s.trust(t, ca, next)
		seen("both authorities", func() bool { return trusts(clientTrust, next) && trusts(serverTrust, next) })
		s.leaves(t, next)
		seen("the new leaves", func() bool { return isBy(serverCert, next) && isBy(clientCert, next) })
		s.trust(t, next)
		seen("the new authority alone", func() bool { return !trusts(clientTrust, ca) && !trusts(serverTrust, ca) })
		ca = next
	}
	close(stop)
	wg.Wait()
	t.Logf("%d handshakes, %d failed", done.Load(), failed.Load())
}

func trusts(f *FileTrust, ca *testcert.CA) bool {
	return slices.ContainsFunc(f.Roots().certs, ca.Cert.Equal)
}

func isBy(f *FileSource, ca *testcert.CA) bool {
	return f.Certificates()[0].CheckSignatureFrom(ca.Cert) == nil
}

// visit is a handshake and one byte from the server: only that shows that it
// accepted the client.
func visit(addr string, conf *tls.Config) error {
	conn, err := tls.Dial("tcp", addr, conf)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n\r\n"); err != nil {
		return err
	}
	_, err = io.ReadFull(conn, make([]byte, 1))
	return err
}
