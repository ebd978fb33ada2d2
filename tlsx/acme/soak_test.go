//go:build soak

package acme

import (
	"crypto/tls"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/palisade-go/palisade/internal/pebbletest"
	"github.com/palisade-go/palisade/tlsx"
)

// TestRenewalSoak has two servers renew 60-second certificates of one storage
// for six minutes, while the authority rejects half of all nonces. Every 100
// seconds it stands still for 20, and every 100 seconds, at another time, the
// storage is read-only for 20. No handshake fails, no expired certificate is
// served, and a renewal takes one order in the cluster.
func TestRenewalSoak(t *testing.T) {
	const length = 6 * time.Minute
	p := pebbletest.Start(t, pebbletest.Config{Env: []string{"PEBBLE_WFE_NONCEREJECT=50"}, Validity: time.Minute})
	storage := &faultyStorage{Storage: &certmagic.FileStorage{Path: t.TempDir()}}
	names := []string{"one.test", "two.test"}
	var orders, failures atomic.Int32
	var ports []int
	for i := range 2 {
		s, events := newSource(t, p, Config{Names: names, Storage: storage, Profile: "brief"})
		go func() {
			for {
				select {
				case e := <-events:
					switch e.Kind {
					case Obtained, Renewed:
						orders.Add(1)
					case Failed:
						failures.Add(1)
					case Expiring:
						t.Logf("%s is expiring: %v", e.Name, e.Err)
					}
				case <-t.Context().Done():
					return
				}
			}
		}()
		if i == 0 {
			serve(t, listen(t, p.HTTPPort), s.HTTPHandler(http.NotFoundHandler()))
		}
		ln := listen(t, 0)
		serve(t, terminator(t, tlsx.Config{Certs: []tlsx.CertSource{s}}).Listener(ln), http.NotFoundHandler())
		ports = append(ports, ln.Addr().(*net.TCPAddr).Port)
		obtain(t, s)
	}
	roots := p.Roots(t)
	serials := make(map[string]bool)
	start, shakes := time.Now(), 0
	for second := 0; time.Since(start) < length; second++ {
		breakParts(t, p, storage, second%100)
		for _, port := range ports {
			for _, name := range names {
				shakes++
				conn, err := tls.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), &tls.Config{ServerName: name, RootCAs: roots})
				if err != nil {
					t.Errorf("second %d, %s: %v", second, name, err)
					continue
				}
				leaf := conn.ConnectionState().PeerCertificates[0]
				conn.Close()
				serials[leaf.SerialNumber.String()] = true
				if time.Now().After(leaf.NotAfter) {
					t.Errorf("second %d, %s: expired on %v", second, name, leaf.NotAfter)
				}
			}
		}
		time.Sleep(time.Until(start.Add(time.Duration(second+1) * time.Second)))
	}
	t.Logf("%d handshakes with %d certificates, %d orders, %d failures", shakes, len(serials), orders.Load(), failures.Load())
	if n := orders.Load(); n < 10 || int(n) > len(serials)+len(names) {
		t.Errorf("%d orders for %d certificates", n, len(serials))
	}
	if failures.Load() == 0 {
		t.Error("nothing failed, so that this shows nothing")
	}
}

// breakParts does what the second of a period is for.
func breakParts(t *testing.T, p *pebbletest.Server, storage *faultyStorage, second int) {
	t.Helper()
	var err error
	switch second {
	case 10:
		err = p.Pause()
	case 30:
		err = p.Resume()
	case 60:
		storage.readOnly.Store(true)
	case 80:
		storage.readOnly.Store(false)
	}
	if err != nil {
		t.Fatal(err)
	}
}
