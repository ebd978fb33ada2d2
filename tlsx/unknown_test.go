package tlsx

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palisade-go/palisade/internal/testcert"
)

func from(ip string) net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(ip), 1))
}

// TestUnknownNamesAreAskedOnce counts what a source is asked.
func TestUnknownNamesAreAskedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := testcert.NewCA(t)
		known := static(ca.Issue(testcert.Leaf{Names: []string{"a.test"}}))
		var asked atomic.Int32
		broken := false
		source := CertFunc(func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if hello.ServerName != "a.test" {
				asked.Add(1)
			}
			if broken {
				return nil, errors.New("broken")
			}
			return known.Certificate(hello)
		})
		rejected := make(chan rejection, 100)
		term := newTerminator(t, Config{Certs: []CertSource{source}, OnReject: collect(rejected), Unknown: &UnknownNames{PerClient: 3}})
		visit := func(name string, want error, asks int32) {
			t.Helper()
			before := asked.Load()
			r := shake(t, term.ServerConfig(), &tls.Config{ServerName: name, RootCAs: ca.Pool()})
			if r.ok() != (want == nil) || asked.Load()-before != asks {
				t.Errorf("%s: %v, asked %d times, want %d", name, r.clientErr, asked.Load()-before, asks)
			}
			if want != nil {
				wantAlert(t, r.clientErr, alertUnrecognizedName)
				if got := <-rejected; !errors.Is(got.err, want) || got.name != name {
					t.Errorf("%s: rejected with %v, want %v", name, got.err, want)
				}
			}
		}
		visit("a.test", nil, 0)
		visit("x.test", ErrUnknownName, 1)
		visit("x.test", ErrUnknownName, 0)
		visit("y.test", ErrUnknownName, 1) // a.test was the first of the three
		visit("z.test", ErrUnknownFlood, 0)
		visit("a.test", nil, 0)
		visit("x.test", ErrUnknownName, 0)
		time.Sleep(10 * time.Second)
		visit("x.test", ErrUnknownName, 1)
		visit("z.test", ErrUnknownName, 1)
		time.Sleep(10 * time.Second)
		broken = true // what failed is not unknown
		if r := shake(t, term.ServerConfig(), &tls.Config{ServerName: "x.test", RootCAs: ca.Pool()}); r.ok() {
			t.Error("a broken source has a certificate")
		}
		<-rejected
		broken = false
		visit("x.test", ErrUnknownName, 1)
	})
}

func TestUnknownBudgets(t *testing.T) {
	n := newUnknownNames(&UnknownNames{TTL: time.Minute, PerClient: 2, Total: 5})
	now := time.Now()
	for i, c := range []struct {
		client string
		want   error
	}{
		{"192.0.2.1", nil}, {"192.0.2.1", nil}, {"192.0.2.1", ErrUnknownFlood},
		{"::ffff:192.0.2.1", ErrUnknownFlood}, // the same
		{"2001:db8::1", nil}, {"2001:db8::2", nil}, {"2001:db8::3", ErrUnknownFlood},
		{"2001:db8:0:1::1", nil}, {"192.0.2.9", ErrUnknownFlood}, // that was the total
	} {
		if _, err := n.mayAsk(fmt.Sprint(i), from(c.client), now); !errors.Is(err, c.want) {
			t.Errorf("%d, %s: %v, want %v", i, c.client, err, c.want)
		}
	}
	if _, err := n.mayAsk("x", nil, now.Add(time.Minute)); err != nil {
		t.Errorf("in the next window: %v", err)
	}
	if _, err := New(Config{Certs: []CertSource{CertFunc(nil)}, Unknown: &UnknownNames{Total: -1}}); err == nil {
		t.Error("a negative bound was accepted")
	}
	if _, err := newUnknownNames(nil).mayAsk("x", nil, now); err != nil {
		t.Error("a bound without bounds")
	}
}

// TestOneDecisionAtOnce has many clients ask for the same new names at once.
func TestOneDecisionAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := testcert.NewCA(t)
		known := static(ca.Issue(testcert.Leaf{Names: []string{"a.test"}}))
		asked := make(map[string]int)
		var mu sync.Mutex // guards asked
		slow := CertFunc(func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			mu.Lock()
			asked[hello.ServerName]++
			n := asked[hello.ServerName]
			mu.Unlock()
			time.Sleep(time.Second)
			if hello.ServerName == "broken.test" && n == 1 {
				return nil, errors.New("broken")
			}
			return known.Certificate(hello)
		})
		term := newTerminator(t, Config{Certs: []CertSource{slow}, Unknown: &UnknownNames{}})
		var wg sync.WaitGroup
		for range 10 {
			for _, name := range []string{"a.test", "x.test", "broken.test"} {
				wg.Go(func() {
					if r := shake(t, term.ServerConfig(), &tls.Config{ServerName: name, RootCAs: ca.Pool()}); r.ok() != (name == "a.test") {
						t.Errorf("%s: %v", name, r.clientErr)
					}
				})
			}
		}
		wg.Wait()
		// What is known is asked for in each handshake, and once more for the
		// certificate itself.
		if asked["x.test"] != 1 || asked["broken.test"] != 2 {
			t.Errorf("asked %v", asked)
		}
		if n := len(term.unknown.asking); n > 0 {
			t.Errorf("%d names are still being asked for", n)
		}
	})
}
