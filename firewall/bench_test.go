package firewall

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The figures of this package:
//
//	go test -run '^$' -bench . -count 5 ./firewall

// randomPrefixes returns n different IPv4 prefixes of /16 to /32, all outside
// 240.0.0.0/4.
func randomPrefixes(n int) []netip.Prefix {
	rng := rand.New(rand.NewPCG(11, 12))
	seen := make(map[netip.Prefix]bool)
	out := make([]netip.Prefix, 0, n)
	for len(out) < n {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], rng.Uint32N(0xf000_0000))
		p := netip.PrefixFrom(netip.AddrFrom4(b), 16+rng.IntN(17)).Masked()
		if !seen[p] {
			seen[p] = true
			out = append(out, p)
		}
	}
	return out
}

func randomAddrs(n int) []netip.Addr {
	rng := rand.New(rand.NewPCG(13, 14))
	out := make([]netip.Addr, n)
	for i := range out {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], rng.Uint32())
		out[i] = netip.AddrFrom4(b)
	}
	return out
}

// BenchmarkLookup asks a set of 100,000 prefixes about random addresses.
func BenchmarkLookup(b *testing.B) {
	s, err := NewPrefixSet(randomPrefixes(100_000)...)
	if err != nil {
		b.Fatal(err)
	}
	addrs := randomAddrs(1 << 16)
	b.ReportAllocs()
	i, hits := 0, 0
	for b.Loop() {
		if s.Contains(addrs[i&(len(addrs)-1)]) {
			hits++
		}
		i++
	}
	if hits == 0 {
		b.Error("no address is in the set")
	}
}

// BenchmarkSwap replaces a set of 100,000 prefixes while requests are decided,
// and counts verdicts that are wrong: the sets differ, but for two networks of
// which one is in both and one in neither.
func BenchmarkSwap(b *testing.B) {
	all := randomPrefixes(200_000)
	always := netip.MustParsePrefix("240.0.0.0/8")
	lists := [2][]netip.Prefix{append(all[:100_000:100_000], always), append(all[100_000:], always)}
	s, err := NewPrefixSet(lists[0]...)
	if err != nil {
		b.Fatal(err)
	}
	f := newFirewall(b, Config{Policy: Policy{
		Sets: map[string]*PrefixSet{"s": s}, Rules: []Rule{{ID: "s", Match: SourceSet("s")}}, Default: Accept,
	}})
	var wrong, decided atomic.Uint64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		dst := netip.MustParseAddrPort("192.0.2.1:443")
		in, out := netip.MustParseAddrPort("240.1.1.1:5"), netip.MustParseAddrPort("250.1.1.1:5")
		for {
			select {
			case <-stop:
				return
			default:
			}
			if f.DecideConn(in, dst).Verdict != Drop || f.DecideConn(out, dst).Verdict != Accept {
				wrong.Add(1)
			}
			decided.Add(2)
		}
	})
	n := 0
	for b.Loop() {
		n++
		if err := s.Replace(lists[n%2]...); err != nil {
			b.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	b.ReportMetric(float64(wrong.Load()), "wrong-verdicts")
	if wrong.Load() > 0 || decided.Load() == 0 {
		b.Errorf("%d wrong verdicts of %d", wrong.Load(), decided.Load())
	}
}

// BenchmarkRequestPolicy decides about a request from behind a proxy by a policy
// of 100,000 prefixes, 50 rules and a limit, which accepts it.
func BenchmarkRequestPolicy(b *testing.B) {
	s, err := NewPrefixSet(randomPrefixes(100_000)...)
	if err != nil {
		b.Fatal(err)
	}
	p := Policy{Sets: map[string]*PrefixSet{"bad": s}, Default: Accept, Limits: []Limit{{ID: "l", Rate: 1e6, Burst: 1e6}}}
	p.Rules = append(p.Rules, Rule{ID: "bad", Match: SourceSet("bad")})
	for i := range 49 {
		m := []Match{
			PathPrefix(fmt.Sprintf("/inner-%d", i)), Host(fmt.Sprintf("h%d.example.org", i)), Method("TRACE"),
			Source(netip.PrefixFrom(netip.AddrFrom4([4]byte{250, byte(i), 0, 0}), 16)), Header("X-Scanner", "x"),
		}[i%5]
		p.Rules = append(p.Rules, Rule{ID: fmt.Sprint(i), Match: m})
	}
	f := newFirewall(b, Config{Policy: p, TrustedProxies: prefixes("10.0.0.0/24")})
	var requests [64]*http.Request // of as many clients, lest one is over the limit
	for i := range requests {
		requests[i] = request("GET", "/articles/2026/index", "10.0.0.1:80")
		requests[i].Header.Set("X-Forwarded-For", fmt.Sprintf("241.1.2.%d, 10.0.0.2", i))
	}
	benchmarkHandler(b, f, requests[:])
}

func benchmarkHandler(b *testing.B, f *Firewall, requests []*http.Request) {
	served := 0
	h, w := f.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served++ })), httptest.NewRecorder()
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		h.ServeHTTP(w, requests[n%len(requests)])
		n++
	}
	if served != n {
		b.Errorf("%d of %d requests were accepted", served, n)
	}
}

// BenchmarkRequestLimit serves a request that a limit per client accepts.
func BenchmarkRequestLimit(b *testing.B) {
	f := newFirewall(b, Config{Policy: Policy{Limits: []Limit{{ID: "l", Rate: 1e6, Burst: 1e6}}, Default: Accept}})
	var requests [64]*http.Request
	for i := range requests {
		requests[i] = request("GET", "/", fmt.Sprintf("192.0.2.%d:80", i))
	}
	benchmarkHandler(b, f, requests[:])
}

func BenchmarkLimiter(b *testing.B) {
	for name, c := range map[string]LimiterConfig{"bucket": {Rate: 1e6, Burst: 1e6}, "window": {Window: time.Hour, Burst: 1}} {
		b.Run(name, func(b *testing.B) {
			l, err := NewLimiter[netip.Addr](c)
			if err != nil {
				b.Fatal(err)
			}
			addrs := randomAddrs(1 << 12)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				l.Allow(addrs[i&(len(addrs)-1)])
				i++
			}
		})
	}
}

// BenchmarkTenMillionSources sends a request from each of ten million sources,
// while 1,000 clients are over their limit, and reports by how much the heap grew
// and how many of those were forgotten.
func BenchmarkTenMillionSources(b *testing.B) {
	for b.Loop() {
		l := limiterOf(1e-3, 10, 1<<16)
		heavy := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{250, 0, byte(i >> 8), byte(i)}) }
		for i := range 1000 {
			for range 10 {
				l.ask(l.key(heavy(i)), 1, true)
			}
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for i := range uint32(10_000_000) {
			var a [4]byte
			binary.BigEndian.PutUint32(a[:], i)
			l.ask(l.key(netip.AddrFrom4(a)), int64(i), true)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		forgotten := 0
		for i := range 1000 {
			if l.ask(l.key(heavy(i)), 10_000_000, false) == 0 {
				forgotten++
			}
		}
		b.ReportMetric(float64(max(0, int64(after.HeapAlloc)-int64(before.HeapAlloc))), "heap-growth-B")
		b.ReportMetric(float64(forgotten)/10, "%forgotten")
	}
}
