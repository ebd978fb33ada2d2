//go:build soak

package acme

import (
	"crypto/tls"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/palisade-go/palisade/internal/pebbletest"
	"github.com/palisade-go/palisade/tlsx"
)

// TestRenewalSoak has two servers renew 60-second certificates of one storage
// for three minutes: no handshake fails and no expired certificate is served.
// Nothing fails here on purpose, as certmagic waits a minute after a failure,
// which is all the life that such a certificate has.
func TestRenewalSoak(t *testing.T) {
	p := pebbletest.Start(t, pebbletest.Config{Env: []string{"PEBBLE_WFE_NONCEREJECT=5"}, Validity: time.Minute})
	storage := &certmagic.FileStorage{Path: t.TempDir()}
	names := []string{"one.test", "two.test"}
	var renewed atomic.Int32
	var ports []int
	var nodes []*Source
	for i := range 2 {
		s, events := newSource(t, p, Config{Names: names, Storage: storage, Profile: "brief"})
		nodes = append(nodes, s)
		go func() {
			for {
				select {
				case e := <-events:
					if e.Kind == Renewed {
						renewed.Add(1)
					}
				case <-t.Context().Done():
					return
				}
			}
		}()
		if i == 0 {
			serve(t, listen(t, p.HTTPPort), s.HTTPHandler(http.NotFoundHandler()))
		}
		s.magic.RenewalWindowRatio = 0.6
		ln := listen(t, 0)
		serve(t, terminator(t, tlsx.Config{Certs: []tlsx.CertSource{s}}).Listener(ln), http.NotFoundHandler())
		ports = append(ports, ln.Addr().(*net.TCPAddr).Port)
		obtain(t, s)
	}
	roots := p.Roots(t)
	start, shakes := time.Now(), 0
	for second := 0; time.Since(start) < 3*time.Minute; second++ {
		if second%5 == 0 {
			for _, s := range nodes {
				go s.cache.RenewManagedCertificates(t.Context())
			}
		}
		for _, port := range ports {
			for _, name := range names {
				shakes++
				if _, err := dial(t, port, &tls.Config{ServerName: name, RootCAs: roots}); err != nil {
					t.Errorf("second %d, %s: %v", second, name, err)
				}
			}
		}
		time.Sleep(time.Until(start.Add(time.Duration(second+1) * time.Second)))
	}
	t.Logf("%d handshakes, %d renewals", shakes, renewed.Load())
	if renewed.Load() < 4 {
		t.Error("too few renewals to show anything")
	}
}
