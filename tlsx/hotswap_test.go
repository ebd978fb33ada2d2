package tlsx

import (
	"crypto/tls"
	"errors"
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

// serverLeaf replaces the server's certificate.
func (s swapper) serverLeaf(t *testing.T, ca *testcert.CA) {
	t.Helper()
	pair := pairOf(t, ca, testcert.Leaf{Names: []string{"web.test"}, URIs: webURI})
	replace(t, s.serverKey, pair.key) // the pair does not match in between
	replace(t, s.serverCert, pair.cert)
}

// clientLeaf replaces the client's certificate.
func (s swapper) clientLeaf(t *testing.T, ca *testcert.CA) {
	t.Helper()
	pair := pairOf(t, ca, testcert.Leaf{CommonName: "balancer"})
	replace(t, s.clientKey, pair.key)
	replace(t, s.clientCert, pair.cert)
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
// in a rotation of the authority, while connections are made: none fails. How
// many there can be in a second is another test's, TestHotSwapRate.
func TestHotSwap(t *testing.T) {
	rig := startSwap(t, 60) // which the race detector leaves time for
	rig.rotate(t)
	t.Logf("%d connections, %d of them resumed sessions", rig.done.Load(), rig.resumed.Load())
}

// swapRig is a server and a client in mutual TLS, both from files, and the
// connections that are made between them.
type swapRig struct {
	swapper
	rate                     int          // of connections that are begun, whether or not those before have ended
	ca                       *testcert.CA // of now
	serverCert, clientCert   *FileSource
	clientTrust, serverTrust *FileTrust
	done, resumed, failed    atomic.Int64

	mu    sync.Mutex
	epoch *sync.WaitGroup // of the connections that have begun since the last wait
}

// startSwap makes so many connections a second until the end of the test, and has
// it fail if one of them does.
func startSwap(t *testing.T, rate int) *swapRig {
	t.Helper()
	rig := &swapRig{rate: rate, swapper: newSwapper(t), ca: testcert.NewCA(t), epoch: new(sync.WaitGroup)}
	rig.serverLeaf(t, rig.ca)
	rig.clientLeaf(t, rig.ca)
	rig.trust(t, rig.ca)
	quiet := slog.New(slog.DiscardHandler)
	var errs [4]error
	rig.serverCert, errs[0] = Files(rig.swapper.serverCert, rig.serverKey, quiet)
	rig.clientCert, errs[1] = Files(rig.swapper.clientCert, rig.clientKey, quiet)
	rig.clientTrust, errs[2] = TrustFile(rig.clientCA, quiet)
	rig.serverTrust, errs[3] = TrustFile(rig.serverCA, quiet)
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	term := newTerminator(t, Config{Certs: []CertSource{rig.serverCert}, Policies: []Policy{{Client: &ClientAuth{Mode: Required, Roots: rig.clientTrust}}}})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, term.Listener(ln), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }))
	client, err := BackendTLS(Backend{Roots: rig.serverTrust, Cert: rig.clientCert, Peer: PeerMatcher{URIs: webURI}, ServerName: "web.test"})
	if err != nil {
		t.Fatal(err)
	}
	client.CurvePreferences = []tls.CurveID{tls.CurveP256} // the one that costs least under the race detector
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		rig.connect(t, ln.Addr().String(), client, stop)
	}()
	t.Cleanup(func() {
		close(stop)
		<-ended
	})
	return rig
}

// connect begins connections at their times until stop, and ends with the last.
func (rig *swapRig) connect(t *testing.T, addr string, client *tls.Config, stop <-chan struct{}) {
	var all sync.WaitGroup
	defer all.Wait()
	room := make(chan struct{}, rig.rate) // for a second's connections at once
	timer := time.NewTimer(0)
	defer timer.Stop()
	begin := time.Now()
	for i := 0; ; i++ {
		timer.Reset(time.Until(begin.Add(time.Duration(i) * time.Second / time.Duration(rig.rate))))
		select {
		case <-stop:
			return
		case <-timer.C:
		}
		select {
		case <-stop:
			return
		case room <- struct{}{}:
		}
		epoch := rig.begin()
		all.Go(func() {
			resumed, err := visit(addr, client)
			if err != nil {
				rig.failed.Add(1)
				t.Errorf("connection %d: %v", i, err)
			}
			if resumed {
				rig.resumed.Add(1)
			}
			rig.done.Add(1)
			epoch.Done()
			<-room
		})
	}
}

// begin notes that a connection begins.
func (rig *swapRig) begin() *sync.WaitGroup {
	rig.mu.Lock()
	defer rig.mu.Unlock()
	rig.epoch.Add(1)
	return rig.epoch
}

// others waits until the connections that have begun so far have ended.
func (rig *swapRig) others() {
	rig.mu.Lock()
	before := rig.epoch
	rig.epoch = new(sync.WaitGroup)
	rig.mu.Unlock()
	before.Wait()
}

// rotate replaces the authority in the four steps of the package's documentation.
func (rig *swapRig) rotate(t *testing.T) {
	t.Helper()
	next := testcert.NewCA(t)
	rig.trust(t, rig.ca, next)
	rig.seen(t, "both authorities", func() bool { return trusts(rig.clientTrust, next) && trusts(rig.serverTrust, next) })
	rig.serverLeaf(t, next)
	rig.seen(t, "the server's new leaf", func() bool { return isBy(rig.serverCert, next) })
	rig.clientLeaf(t, next)
	rig.seen(t, "the client's new leaf", func() bool { return isBy(rig.clientCert, next) })
	rig.trust(t, next)
	rig.seen(t, "the new authority alone", func() bool { return !trusts(rig.clientTrust, rig.ca) && !trusts(rig.serverTrust, rig.ca) })
	rig.ca = next
}

// seen returns when a change is there, the connections that began before it have
// ended, and a third of a second's connections have been made since.
func (rig *swapRig) seen(t *testing.T, what string, is func() bool) {
	t.Helper()
	for start := time.Now(); !is(); time.Sleep(time.Millisecond) {
		if time.Since(start) > 30*time.Second {
			t.Fatalf("%s not seen", what)
		}
	}
	rig.others()
	for n := rig.done.Load() + int64(rig.rate/3); rig.done.Load() < n; time.Sleep(time.Millisecond) {
		if t.Failed() {
			t.FailNow()
		}
	}
}

func trusts(f *FileTrust, ca *testcert.CA) bool {
	return slices.ContainsFunc(f.Roots().certs, ca.Cert.Equal)
}

func isBy(f *FileSource, ca *testcert.CA) bool {
	return f.Certificates()[0].CheckSignatureFrom(ca.Cert) == nil
}

// visit is a connection and one byte from the server: only that shows that it
// accepted the client.
func visit(addr string, conf *tls.Config) (resumed bool, err error) {
	dialer := tls.Dialer{NetDialer: &net.Dialer{Timeout: 30 * time.Second}, Config: conf}
	raw, err := dialer.Dial("tcp", addr)
	if err != nil {
		return false, err
	}
	defer raw.Close()
	conn := raw.(*tls.Conn)
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: web.test\r\nConnection: close\r\n\r\n"); err != nil {
		return false, err
	}
	_, err = io.ReadFull(conn, make([]byte, 1))
	return conn.ConnectionState().DidResume, err
}
