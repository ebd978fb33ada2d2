package tlsx

import (
	"bytes"
	"crypto/tls"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palisade-go/palisade/internal/testcert"
)

// TestECHRotation follows a client that keeps the configuration it once found:
// it is good for one more period, and then it gets a new one.
func TestECHRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := testcert.NewCA(t)
		far := time.Now().AddDate(1, 0, 0)
		conf := Config{
			Certs: []CertSource{static(ca.Issue(testcert.Leaf{Names: []string{"public.test", "secret.test"}, NotAfter: far}))},
			Policies: []Policy{
				{Names: []string{"public.test"}},
				{Names: []string{"secret.test"}, Client: &ClientAuth{Roots: rootsOf(t, ca)}},
			},
			ECH: &ECH{PublicName: "public.test", Secret: bytes.Repeat([]byte{1}, 32)},
		}
		term, twin := newTerminator(t, conf), newTerminator(t, conf)
		conf.ECH = &ECH{PublicName: "public.test"}
		stranger, another := newTerminator(t, conf), newTerminator(t, conf)
		client := func(list []byte) *tls.Config {
			return &tls.Config{ServerName: "secret.test", RootCAs: ca.Pool(), MinVersion: tls.VersionTLS13, EncryptedClientHelloConfigList: list}
		}
		list := term.ECHConfigList()
		if !bytes.Equal(list, twin.ECHConfigList()) || bytes.Equal(list, stranger.ECHConfigList()) || bytes.Equal(stranger.ECHConfigList(), another.ECHConfigList()) {
			t.Error("not the same secret alone has the same keys")
		}
		for period := range 2 {
			for _, server := range []*Terminator{term, twin} {
				if r := shake(t, server.ServerConfig(), client(list)); !r.ok() || !r.client.ECHAccepted || r.client.ServerName != "secret.test" {
					t.Errorf("period %d: accepted %v, %v / %v", period, r.client.ECHAccepted, r.clientErr, r.serverErr)
				}
			}
			time.Sleep(24 * time.Hour)
		}
		r := shake(t, term.ServerConfig(), client(list))
		refused, ok := errors.AsType[*tls.ECHRejectionError](r.clientErr)
		if !ok || !bytes.Equal(refused.RetryConfigList, term.ECHConfigList()) || bytes.Equal(list, refused.RetryConfigList) {
			t.Fatalf("an old configuration: %v / %v", r.clientErr, r.serverErr)
		}
		if r := shake(t, twin.ServerConfig(), client(refused.RetryConfigList)); !r.ok() || !r.client.ECHAccepted {
			t.Errorf("the new configuration: %v / %v", r.clientErr, r.serverErr)
		}
		// Clients without it are served as ever.
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			if r := shake(t, term.ServerConfig(), &tls.Config{ServerName: "secret.test", RootCAs: ca.Pool(), MaxVersion: version}); !r.ok() || r.client.ECHAccepted {
				t.Errorf("%s without: %v / %v", tls.VersionName(version), r.clientErr, r.serverErr)
			}
		}
		conf.ECH = nil
		if newTerminator(t, conf).ECHConfigList() != nil {
			t.Error("a configuration without ECH")
		}
	})
}

// TestECHKeys is about the keys behind the configurations: each period has its own,
// the two beside it are accepted and not offered, and the secret is a copy.
func TestECHKeys(t *testing.T) {
	secret := bytes.Repeat([]byte{1}, 32)
	k := newECHKeys(&ECH{PublicName: "public.test", Secret: secret})
	e := k.now()
	clear(secret)
	seen := make(map[string]int64)
	for n := e.number - 2; n <= e.number+2; n++ {
		private := string(k.key(n).PrivateKey)
		if other, ok := seen[private]; ok {
			t.Errorf("periods %d and %d have the same key", other, n)
		}
		seen[private] = n
	}
	if len(e.keys) != 3 {
		t.Fatalf("%d keys, want 3", len(e.keys))
	}
	for i, n := range []int64{e.number, e.number - 1, e.number + 1} {
		if got := e.keys[i]; seen[string(got.PrivateKey)] != n || got.SendAsRetry != (i == 0) {
			t.Errorf("key %d is not of period %d, or retry %v", i, n-e.number, got.SendAsRetry)
		}
	}
}

func TestECHIsChecked(t *testing.T) {
	ca := testcert.NewCA(t)
	for _, e := range []ECH{{}, {PublicName: "UPPER.test"}, {PublicName: "192.0.2.1"}, {PublicName: "a b"}, {PublicName: "a.test", Secret: []byte("short")}, {PublicName: "a.test", Rotation: -1}, {PublicName: "a.test", Rotation: time.Millisecond}} {
		if _, err := New(Config{Certs: []CertSource{static(ca.Issue(testcert.Leaf{}))}, ECH: &e}); err == nil {
			t.Errorf("%+v was accepted", e)
		}
	}
}
