package firewall

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"
)

// TestLimiterIsLikeRate asks a Limiter and a rate.Limiter the same: to allow, to
// reserve, to cancel a reservation, and what is left.
func TestLimiterIsLikeRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(1, 9))
		l, err := NewLimiter[string](LimiterConfig{Rate: 4, Burst: 5})
		if err != nil {
			t.Fatal(err)
		}
		oracle := rate.NewLimiter(4, 5)
		type pair struct {
			ours   *Reservation
			theirs *rate.Reservation
		}
		var held []pair
		seen := make(map[string]int)
		for i := range 5000 {
			// A token takes 250 ms; at multiples of 7 ms the floats of the oracle
			// are not at a boundary by accident.
			time.Sleep(time.Duration(rng.IntN(60)) * 7 * time.Millisecond)
			switch rng.IntN(4) {
			case 0, 1:
				got, want := l.Allow("k"), oracle.Allow()
				if got != want {
					t.Fatalf("step %d: allowed %v, want %v", i, got, want)
				}
				seen["allow"]++
			case 2:
				n := 1 + rng.IntN(6)
				ours, err := l.Reserve("k", n)
				theirs := oracle.ReserveN(time.Now(), n)
				if (err == nil) != theirs.OK() || err != nil && !errors.Is(err, ErrNoReservation) {
					t.Fatalf("step %d: reserving %d: %v, want OK %v", i, n, err, theirs.OK())
				}
				if err != nil {
					seen["too many"]++
					continue
				}
				if d := ours.Delay - theirs.Delay(); d.Abs() > time.Microsecond {
					t.Fatalf("step %d: delay %v, want %v", i, ours.Delay, theirs.Delay())
				}
				held = append(held, pair{ours, theirs})
			default:
				if len(held) == 0 {
					continue
				}
				k := rng.IntN(len(held))
				held[k].ours.Cancel()
				held[k].ours.Cancel()
				held[k].theirs.Cancel()
				held = slices.Delete(held, k, k+1)
				seen["cancel"]++
			}
			want := max(0, int(oracle.Tokens()+1e-6))
			if q := l.Peek("k"); q.Remaining != want || q.Limit != 5 || (q.Wait == 0) != (want > 0) {
				t.Fatalf("step %d: left %+v, want %d", i, q, want)
			}
		}
		if seen["allow"] < 100 || seen["cancel"] < 100 || seen["too many"] < 10 {
			t.Errorf("the test asks too little: %v", seen)
		}
	})
}

func TestLimiterPeekIsHonest(t *testing.T) {
	for name, c := range map[string]LimiterConfig{"bucket": {Rate: 3, Burst: 4}, "window": {Window: 5 * time.Second, Burst: 4}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l, err := NewLimiter[int](c)
				if err != nil {
					t.Fatal(err)
				}
				time.Sleep(1234 * time.Millisecond)
				for i := range 4 {
					if q := l.Peek(1); q.Remaining != 4-i || q.Wait != 0 {
						t.Fatalf("before %d: %+v", i, q)
					}
					if !l.Allow(1) {
						t.Fatalf("%d was refused", i)
					}
				}
				q := l.Peek(1)
				if q.Remaining != 0 || q.Wait <= 0 || q.Reset < q.Wait || l.Allow(1) {
					t.Fatalf("at the end: %+v", q)
				}
				time.Sleep(q.Wait - 1)
				if l.Allow(1) {
					t.Error("allowed before the time was over")
				}
				time.Sleep(time.Nanosecond)
				if l.Peek(1).Remaining < 1 {
					t.Errorf("after the wait: %+v", l.Peek(1))
				}
				time.Sleep(q.Reset - q.Wait)
				if q := l.Peek(1); q.Remaining != 4 || q.Reset != 0 {
					t.Errorf("after the reset: %+v", q)
				}
				if l.Peek(2).Remaining != 4 {
					t.Error("keys are not apart")
				}
			})
		})
	}
}

// TestWindowAgainstALog keeps the times of all that was admitted: no window has
// more than the burst, and what was refused had as many in a window and a fifth.
func TestWindowAgainstALog(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 7))
	const window, burst = 10 * time.Second, 20
	l := newLimiter(Limit{Window: window, Burst: burst, MaxClients: 64}.withDefaults())
	var log []int64
	within := func(now int64, d time.Duration) (n int) {
		for _, at := range log {
			if at > now-int64(d) {
				n++
			}
		}
		return n
	}
	refused := 0
	now := int64(1)
	for i := range 20_000 {
		switch rng.IntN(10) {
		case 0:
			now += rng.Int64N(int64(6 * time.Second))
		default:
			now += rng.Int64N(int64(700 * time.Millisecond))
		}
		wait := l.ask(42, now, true)
		if wait == 0 {
			log = append(log, now)
			if n := within(now, window); n > burst {
				t.Fatalf("request %d: %d in one window", i, n)
			}
			continue
		}
		refused++
		if n := within(now, window+window/parts); n < burst {
			t.Fatalf("request %d at %v: refused with %d in a window and a part", i, time.Duration(now), n)
		}
		if again := l.ask(42, now+int64(wait), false); again != 0 {
			t.Fatalf("refused for %v after waiting %v", again, wait)
		}
		if again := l.ask(42, now+int64(wait)-1, false); again == 0 {
			t.Fatalf("admitted before the %v were over", wait)
		}
	}
	if refused < 1000 || len(log) < 1000 {
		t.Errorf("%d refused, %d admitted: the test asks too little", refused, len(log))
	}
}

func TestWindowWhenTimeGoesBackwards(t *testing.T) {
	l := newLimiter(Limit{Window: time.Second, Burst: 10, MaxClients: 64}.withDefaults())
	admitted := 0
	for i := range int64(1000) {
		if l.ask(42, int64(2*time.Second)-i%2*int64(time.Second), true) == 0 {
			admitted++
		}
	}
	if admitted != 10 {
		t.Errorf("admitted %d, want 10", admitted)
	}
}

func TestWindowForgetsTheIdle(t *testing.T) {
	l := newLimiter(Limit{Window: time.Minute, Burst: 3, MaxClients: 8}.withDefaults())
	now := int64(time.Hour)
	for range 3 {
		l.ask(1, now, true)
	}
	for k := range uint64(1000) {
		l.ask(1000+k, now, true)
	}
	if l.ask(1, now, true) == 0 {
		t.Error("the key over its limit was forgotten")
	}
}

func TestLimiterDoesNotAllocate(t *testing.T) {
	for name, c := range map[string]LimiterConfig{"bucket": {Rate: 1e6, Burst: 1e6}, "window": {Window: time.Second, Burst: 60000}} {
		prefixes, err := NewLimiter[netip.Prefix](c)
		if err != nil {
			t.Fatal(err)
		}
		words, err := NewLimiter[string](c)
		if err != nil {
			t.Fatal(err)
		}
		p, s := netip.MustParsePrefix("2001:db8::/64"), strings.Repeat("x", 100)
		if n := testing.AllocsPerRun(1000, func() {
			prefixes.Allow(p)
			words.Allow(s)
			words.Peek(s)
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func TestLimiterConfig(t *testing.T) {
	for _, c := range []LimiterConfig{
		{}, {Rate: 1}, {Burst: 1}, {Rate: 1, Burst: 1, Window: time.Second}, {Window: time.Millisecond, Burst: 1},
		{Window: time.Second, Burst: 1 << 16}, {Rate: 1, Burst: 1, MaxKeys: 1}, {Window: -time.Second, Burst: 1},
	} {
		if l, err := NewLimiter[int](c); err == nil || l != nil || !strings.HasPrefix(err.Error(), "firewall: limiter: ") {
			t.Errorf("%+v: %v", c, err)
		}
	}
	l, err := NewLimiter[int](LimiterConfig{Window: time.Second, Burst: 2})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := l.Reserve(1, 2); err != nil || r.Delay != 0 {
		t.Errorf("reserved %+v, %v", r, err)
	}
	if _, err := l.Reserve(1, 1); !errors.Is(err, ErrNoReservation) {
		t.Errorf("reserved ahead of time: %v", err)
	}
	if _, err := l.Reserve(2, 0); !errors.Is(err, ErrNoReservation) {
		t.Errorf("reserved nothing: %v", err)
	}
}
