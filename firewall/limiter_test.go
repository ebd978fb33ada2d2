package firewall

import (
	"encoding/binary"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"
)

func limiterOf(r rate.Limit, burst, clients int) *limiter {
	return newLimiter(Limit{Rate: r, Burst: burst, MaxClients: clients}.withDefaults())
}

// TestLimiterAgainstRate asks a rate.Limiter the same questions, at times that
// only go forward.
func TestLimiterAgainstRate(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, c := range []struct {
		rate  rate.Limit
		burst int
	}{{10, 1}, {10, 30}, {0.5, 3}, {1000, 10}, {1, 1000}, {rate.Every(time.Hour), 2}} {
		l, oracle, start := limiterOf(c.rate, c.burst, 64), rate.NewLimiter(c.rate, c.burst), time.Unix(0, 0)
		step := int64(2 * float64(time.Second) / float64(c.rate))
		admitted := 0
		for now, i := int64(1), 0; i < 20_000; i++ {
			if rng.IntN(3) > 0 {
				// Whole microseconds off the token boundaries, where the
				// oracle's floats round.
				now += rng.Int64N(step)/1000*1000 + 7
			}
			got, want := l.ask(42, now, true) == 0, oracle.AllowN(start.Add(time.Duration(now)), 1)
			if got != want {
				t.Fatalf("rate %v, burst %d: request %d at %v: %v, want %v", float64(c.rate), c.burst, i, time.Duration(now), got, want)
			}
			if got {
				admitted++
			}
		}
		if admitted == 0 || admitted == 20_000 {
			t.Errorf("rate %v: admitted %d of 20000; the test asks nothing", float64(c.rate), admitted)
		}
	}
}

// TestLimiterWhenTimeGoesBackwards is golang/go #71360, in which a rate.Limiter
// admits 1,000 of these.
func TestLimiterWhenTimeGoesBackwards(t *testing.T) {
	l := limiterOf(10, 10, 64)
	admitted := 0
	for i := range int64(1000) {
		now := int64(2 * time.Second)
		if i%2 == 1 {
			now = int64(time.Second)
		}
		if l.ask(42, now, true) == 0 {
			admitted++
		}
	}
	if admitted > 20 || admitted < 10 {
		t.Errorf("admitted %d, want 10 to 20", admitted)
	}
}

func TestLimiterWaitIsHonest(t *testing.T) {
	l := limiterOf(3, 2, 64)
	now := int64(0)
	for range 100 {
		wait := l.ask(42, now, true)
		if peek := l.ask(42, now, false); wait > 0 && peek != wait {
			t.Fatalf("peek says %v, take said %v", peek, wait)
		}
		if wait > 0 {
			if again := l.ask(42, now+int64(wait)-1, false); again == 0 {
				t.Fatalf("admitted before the %v were over", wait)
			}
			now += int64(wait)
			if again := l.ask(42, now, true); again != 0 {
				t.Fatalf("refused for %v after waiting %v", again, wait)
			}
		}
	}
}

func TestLimiterKeys(t *testing.T) {
	l := newLimiter(Limit{Rate: 1, Burst: 1, IPv4Bits: 24, IPv6Bits: 56}.withDefaults())
	key := func(s string) uint64 { return l.key(netip.MustParseAddr(s)) }
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"192.0.2.1", "192.0.2.254", true},
		{"192.0.2.1", "192.0.3.1", false},
		{"2001:db8:0:1::1", "2001:db8:0:ff:1::", true},
		{"2001:db8::", "2001:db8:0:100::", false},
		{"0.0.0.0", "::", false},
	} {
		if got := key(c.a) == key(c.b); got != c.same {
			t.Errorf("%s and %s are the same client: %v, want %v", c.a, c.b, got, c.same)
		}
	}
	if other := limiterOf(1, 1, 64); other.key(netip.MustParseAddr("192.0.2.0")) == key("192.0.2.0") {
		t.Error("two limiters hash alike: the seed is not their own")
	}
}

// TestLimiterKeysOfEveryLength changes each bit of an address: the client is the
// same if, and only if, the bit is behind the prefix.
func TestLimiterKeysOfEveryLength(t *testing.T) {
	for length := 1; length <= 128; length++ {
		l := newLimiter(Limit{Rate: 1, Burst: 1, IPv4Bits: min(length, 32), IPv6Bits: length, MaxClients: ways})
		for _, addr := range []netip.Addr{netip.MustParseAddr("170.85.170.85"), netip.MustParseAddr("2001:db8:aaaa:5555:aaaa:5555:aaaa:5555")} {
			for bit := range addr.BitLen() {
				b := addr.AsSlice()
				b[bit/8] ^= 0x80 >> (bit % 8)
				other, _ := netip.AddrFromSlice(b)
				if same := l.key(addr) == l.key(other); same != (bit >= min(length, addr.BitLen())) {
					t.Errorf("length %d: %v and %v are the same client: %v", length, addr, other, same)
				}
			}
		}
	}
}

// TestLimiterUnderAFlood checks what is promised when far more clients come
// than there is room for: no more memory, and who was over the limit still is.
func TestLimiterUnderAFlood(t *testing.T) {
	l := limiterOf(1, 100, 1024)
	source := func(n uint32) netip.Addr {
		var b [4]byte
		binary.BigEndian.PutUint32(b[:], n)
		return netip.AddrFrom4(b)
	}
	const heavy = 64
	now := int64(0)
	for i := range uint32(heavy) {
		for range 100 {
			l.ask(l.key(source(i)), now, true)
		}
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range uint32(300_000) {
		now += 10
		if l.ask(l.key(source(1<<16+i)), now, true) != 0 {
			t.Fatal("a client was refused its first request")
		}
	}
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 100<<10 {
		t.Errorf("300,000 clients allocated %d bytes", grown)
	}
	forgotten := 0
	for i := range uint32(heavy) {
		if l.ask(l.key(source(i)), now, false) == 0 {
			forgotten++
		}
	}
	if forgotten > 0 {
		t.Errorf("%d of %d clients over the limit were forgotten", forgotten, heavy)
	}
}

func TestLimiterUnderContention(t *testing.T) {
	l, base := limiterOf(1e-3, 500, 64), time.Now()
	var admitted atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				if l.ask(42, int64(time.Since(base)), true) == 0 {
					admitted.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := admitted.Load(); n != 500 {
		t.Errorf("admitted %d, want 500", n)
	}
}

func TestLimiterMemory(t *testing.T) {
	for _, c := range []struct{ clients, want int }{{8, 8}, {9, 8}, {1000, 1000}, {0, defaultMaxClients}} {
		if got := len(limiterOf(1, 1, c.clients).buckets) * ways; got != c.want {
			t.Errorf("MaxClients %d: room for %d, want %d", c.clients, got, c.want)
		}
	}
}

func TestHandlerDoesNotAllocate(t *testing.T) {
	set, err := NewPrefixSet(prefixes("203.0.113.0/24", "2001:db8::/32")...)
	if err != nil {
		t.Fatal(err)
	}
	f := newFirewall(t, Config{
		TrustedProxies: prefixes("10.0.0.0/24"),
		Identity:       func(*http.Request) string { return "spiffe://example.com/x" },
		Policy: Policy{
			Sets: map[string]*PrefixSet{"bad": set},
			Rules: []Rule{
				{ID: "bad", Match: SourceSet("bad")},
				{ID: "inner", Match: All(PathPrefix("/-/"), Not(Method("GET")))},
				{ID: "host", Match: Any(Host("*.example.org"), ClientIdentity("x"), Destination(prefixes("10.0.0.0/8")...))},
			},
			Limits:  []Limit{{ID: "a", Rate: 1e6, Burst: 1e6}, {ID: "b", Rate: 1e6, Burst: 1e6, Match: Method("GET")}},
			Default: Accept,
		},
	})
	r := request("GET", "/a/b", "10.0.0.1:80")
	r.Header.Set("X-Forwarded-For", "203.0.113.9, 198.51.100.1, 10.0.0.2")
	served := 0
	h, w := f.Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served++ })), httptest.NewRecorder()
	if n := testing.AllocsPerRun(1000, func() { h.ServeHTTP(w, r) }); n != 0 || served != 1001 {
		t.Errorf("%v allocations to accept a request, want 0; %d were accepted", n, served)
	}
	src, dst := netip.MustParseAddrPort("198.51.100.1:5"), netip.MustParseAddrPort("192.0.2.1:443")
	if n := testing.AllocsPerRun(1000, func() { f.DecideConn(src, dst) }); n != 0 {
		t.Errorf("%v allocations to decide about a connection, want 0", n)
	}
}

func TestRequestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFirewall(t, Config{Policy: Policy{Default: Accept, Limits: []Limit{{ID: "per-client", Rate: 2.0 / 3, Burst: 30}}}})
		for i := range 30 {
			if w := get(f, request("GET", "/", "192.0.2.1:1")); w.Code != http.StatusOK {
				t.Fatalf("request %d: status %d", i+1, w.Code)
			}
		}
		w := get(f, request("GET", "/", "192.0.2.1:2"))
		if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") != "2" {
			t.Fatalf("request 31: status %d, Retry-After %q, want 429 and 2", w.Code, w.Header().Get("Retry-After"))
		}
		d := f.DecideRequest(request("GET", "/", "192.0.2.1:2"))
		if d.Verdict != Reject || d.Reason != ByLimit || d.LimitID != "per-client" || d.RetryAfter <= time.Second || d.RetryAfter > 1500*time.Millisecond+1000 {
			t.Errorf("decision %+v", d)
		}
		if w := get(f, request("GET", "/", "192.0.2.2:1")); w.Code != http.StatusOK {
			t.Errorf("another client: status %d", w.Code)
		}
		for range 5 { // waiting as long as told is enough, every time
			w := get(f, request("GET", "/", "192.0.2.1:2"))
			if w.Code != http.StatusTooManyRequests {
				t.Fatalf("status %d, want 429", w.Code)
			}
			seconds, err := strconv.Atoi(w.Header().Get("Retry-After"))
			if err != nil || seconds < 1 {
				t.Fatalf("Retry-After %q", w.Header().Get("Retry-After"))
			}
			time.Sleep(time.Duration(seconds) * time.Second)
			for range 2 { // two seconds make one token and a third
				if w = get(f, request("GET", "/", "192.0.2.1:2")); w.Code != http.StatusOK {
					break
				}
			}
			if d := f.DecideRequest(request("GET", "/", "192.0.2.1:2")); d.Verdict != Reject {
				t.Fatalf("still accepted: %+v", d)
			}
		}
	})
}

func TestRetryAfterSucceeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFirewall(t, Config{Policy: Policy{Default: Accept, Limits: []Limit{{ID: "l", Rate: rate.Every(7 * time.Second / 3), Burst: 1}}}})
		for range 20 {
			if w := get(f, request("GET", "/", "192.0.2.1:1")); w.Code != http.StatusOK {
				t.Fatalf("status %d after waiting as long as told", w.Code)
			}
			w := get(f, request("GET", "/", "192.0.2.1:1"))
			seconds, err := strconv.Atoi(w.Header().Get("Retry-After"))
			if err != nil || seconds != 3 {
				t.Fatalf("Retry-After %q, want 3", w.Header().Get("Retry-After"))
			}
			time.Sleep(time.Duration(seconds) * time.Second)
		}
	})
}

// TestRefusedRequestTakesNothing has two limits, one of which refuses.
func TestRefusedRequestTakesNothing(t *testing.T) {
	f := newFirewall(t, Config{Policy: Policy{Default: Accept, Limits: []Limit{
		{ID: "all", Rate: 1e-6, Burst: 3},
		{ID: "posts", Rate: 1e-6, Burst: 1, Match: Method("POST")},
	}}})
	for i, c := range []struct {
		method string
		status int
	}{{"POST", 200}, {"POST", 429}, {"POST", 429}, {"GET", 200}, {"GET", 200}, {"GET", 429}} {
		if w := get(f, request(c.method, "/", "192.0.2.1:1")); w.Code != c.status {
			t.Errorf("request %d, %s: status %d, want %d", i, c.method, w.Code, c.status)
		}
	}
}
