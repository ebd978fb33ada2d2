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

// TestUnknownWithReason has sources that say why there is no certificate, and one
// that fails beside them.
func TestUnknownWithReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		reason := errors.New("no customer of ours")
		var asked atomic.Int32
		refuse := CertFunc(func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			asked.Add(1)
			return nil, fmt.Errorf("refused: %w: %w", ErrUnknownName, reason)
		})
		var broken atomic.Pointer[error]
		other := CertFunc(func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			if err := broken.Load(); err != nil {
				return nil, *err
			}
			return nil, nil
		})
		down := errors.New("down")
		rejected := make(chan rejection, 1)
		term := newTerminator(t, Config{Certs: []CertSource{refuse, other, refuse}, OnReject: collect(rejected), Unknown: &UnknownNames{}})
		visit := func(asks int32, want error, alert bool) {
			t.Helper()
			asked.Store(0)
			r := shake(t, term.ServerConfig(), &tls.Config{ServerName: "x.test", InsecureSkipVerify: true})
			if got := <-rejected; r.ok() || !errors.Is(got.err, want) || errors.Is(got.err, ErrUnknownName) != alert || asked.Load() != asks {
				t.Errorf("asked %d times, want %d; rejected with %v, want %v", asked.Load(), asks, got.err, want)
			}
			if alert {
				wantAlert(t, r.clientErr, alertUnrecognizedName)
			}
		}
		visit(2, reason, true)
		visit(0, ErrUnknownName, true)
		time.Sleep(10 * time.Second)
		broken.Store(&down) // then it is not known whether there is one
		visit(2, down, false)
		visit(2, down, false)
		broken.Store(nil)
		visit(2, reason, true)
		visit(0, ErrUnknownName, true)
	})
}

// TestKnownNamesGo: a name that was served counts as unknown once the sources say
// that they have it no more, and as known again when they do.
func TestKnownNamesGo(t *testing.T) {
	n := newUnknownNames(&UnknownNames{TTL: time.Minute, Total: 3})
	now := time.Now()
	ask := func(when string, want error) {
		t.Helper()
		if turn, err := n.mayAsk("a.test", nil, now); turn != nil || !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", when, err, want)
		}
	}
	for range 2 {
		ask("new", nil)
		n.learn("a.test", answerHad, now)
		ask("known", nil)
		n.learn("a.test", answerFailed, now)
		ask("known, after a failure", nil)
		n.learn("a.test", answerNone, now)
		ask("gone", ErrUnknownName)
		now = now.Add(time.Minute)
	}
	if n.total != 1 {
		t.Errorf("%d names counted in the last window, want one", n.total)
	}
}

func TestUnknownDefaults(t *testing.T) {
	if n := newUnknownNames(&UnknownNames{}); n.UnknownNames != (UnknownNames{10 * time.Second, 250_000, 100, 100_000}) {
		t.Errorf("%+v", n.UnknownNames)
	}
	for _, bad := range []UnknownNames{{TTL: -1}, {Max: -1}, {PerClient: -1}, {Total: -1}} {
		if bad.validate() == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
}

// textAddr is an address of another kind than package net's.
type textAddr string

func (textAddr) Network() string  { return "tcp" }
func (a textAddr) String() string { return string(a) }

func TestClientPrefix(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1:80": "192.0.2.1/32", "192.0.2.2:80": "192.0.2.2/32", "[::ffff:192.0.2.1]:80": "192.0.2.1/32",
		"[2001:db8::1]:80": "2001:db8::/64", "[2001:db8:0:0:ffff::1]:80": "2001:db8::/64", "[2001:db8:0:1::1]:80": "2001:db8:0:1::/64", "[fe80::1%eth0]:80": "fe80::/64",
		"@": "invalid Prefix", "192.0.2.1": "invalid Prefix",
	} {
		if got := clientPrefix(textAddr(addr)); got.String() != want {
			t.Errorf("%s: %v, want %s", addr, got, want)
		}
	}
	if got := clientPrefix(nil); got.IsValid() {
		t.Errorf("nil: %v", got)
	}
}

// TestAgingSet holds a set to its bounds: each entry lives for its time, unless
// there are too many.
func TestAgingSet(t *testing.T) {
	start := time.Now()
	s := agingSet{ttl: time.Minute, max: 10}
	at := func(d time.Duration) time.Time { return start.Add(d) }
	s.add(1, start)
	s.add(2, at(50*time.Second))
	s.add(3, at(70*time.Second)) // begins another half
	for _, c := range []struct {
		hash uint64
		at   time.Duration
		want bool
	}{
		{1, 0, true}, {1, time.Minute - 1, true}, {1, time.Minute, false}, {1, 70 * time.Second, false},
		{2, 70 * time.Second, true}, {2, 110*time.Second - 1, true}, {2, 110 * time.Second, false},
		{3, 70 * time.Second, true}, {3, 130*time.Second - 1, true}, {3, 130 * time.Second, false}, {4, 0, false},
	} {
		if got := s.has(c.hash, at(c.at)); got != c.want {
			t.Errorf("%d after %v: %v, want %v", c.hash, c.at, got, c.want)
		}
	}
	for h := range uint64(1000) {
		s.add(100+h, at(70*time.Second))
		if n := len(s.young) + len(s.old); n > s.max {
			t.Fatalf("%d entries, want at most %d", n, s.max)
		}
		if !s.has(100+h, at(71*time.Second)) || h > 4 && !s.has(100+h-4, at(71*time.Second)) {
			t.Fatalf("of the last five entries one is forgotten after %d", h)
		}
	}
	// Those whose time is over are not kept for want of others.
	aged := agingSet{ttl: time.Minute, max: 1000}
	for i := range 100 {
		aged.add(uint64(i), at(time.Duration(i)*time.Minute))
	}
	if n := len(aged.young) + len(aged.old); n > 2 {
		t.Errorf("%d entries, of which one is in its time", n)
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
