package firewall

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"
)

// memStore is a Store in memory, with a rate.Limiter for each bucket.
type memStore struct {
	mu      sync.Mutex
	buckets map[string]*rate.Limiter
	fail    error
	hang    bool
	calls   int
	given   int
}

func (s *memStore) Take(ctx context.Context, b Bucket, n int) (Quota, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if s.hang {
		<-ctx.Done()
		return Quota{}, ctx.Err()
	}
	if s.fail != nil {
		return Quota{}, s.fail
	}
	if s.buckets == nil {
		s.buckets = make(map[string]*rate.Limiter)
	}
	l := s.buckets[b.Key]
	if l == nil {
		l = rate.NewLimiter(rate.Every(b.Interval), b.Burst)
		s.buckets[b.Key] = l
	}
	q := Quota{Limit: b.Burst}
	r := l.Reserve()
	if q.Wait = r.Delay(); q.Wait > 0 || n == 0 {
		r.Cancel()
	}
	q.Remaining = int(l.Tokens())
	return q, nil
}

func (s *memStore) Return(context.Context, Bucket, int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.given++
	return s.fail
}

// change sets how the store behaves.
func (s *memStore) change(f func(*memStore)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

func TestSharedLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := new(memStore)
		conf := Config{Store: store, Policy: Policy{Default: Accept, Limits: []Limit{{ID: "l", Rate: 1, Burst: 3, Shared: true, Announce: true}}}}
		a, b := newFirewall(t, conf), newFirewall(t, conf)
		for i, f := range []*Firewall{a, b, a} {
			if d := f.DecideRequest(request("GET", "/", "192.0.2.1:1")); d.Verdict != Accept {
				t.Fatalf("before %d: %+v", i, d)
			}
			w := get(f, request("GET", "/", "192.0.2.1:1"))
			if got := w.Header().Get("RateLimit"); w.Code != 200 || !strings.Contains(got, fmt.Sprintf("r=%d", 2-i)) {
				t.Fatalf("request %d: status %d, %s", i, w.Code, got)
			}
		}
		w := get(b, request("GET", "/", "192.0.2.1:1"))
		if w.Code != 429 || w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Header().Get("RateLimit"), "r=0") {
			t.Fatalf("over the limit of both: status %d, %v", w.Code, w.Header())
		}
		if d := a.DecideRequest(request("GET", "/", "192.0.2.1:1")); d.Verdict != Reject || d.LimitID != "l" || d.RetryAfter != time.Second {
			t.Errorf("decision %+v", d)
		}
		if w := get(b, request("GET", "/", "192.0.2.2:1")); w.Code != 200 {
			t.Errorf("another client: status %d", w.Code)
		}
		time.Sleep(time.Second)
		if w := get(b, request("GET", "/", "192.0.2.1:1")); w.Code != 200 {
			t.Errorf("after the wait: status %d", w.Code)
		}
	})
}

// TestStoreFails: each process then keeps its part alone, finds out once a second
// whether the store is back, and says so.
func TestStoreFails(t *testing.T) {
	for _, how := range []string{"fails", "hangs"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log strings.Builder
				store := new(memStore)
				f := newFirewall(t, Config{
					Store: store, StoreProcesses: 3, Logger: slog.New(slog.NewTextHandler(&log, nil)),
					Policy: Policy{Default: Accept, Limits: []Limit{{ID: "l", Rate: 3, Burst: 30, Shared: true}}},
				})
				get(f, request("GET", "/", "192.0.2.1:1"))
				store.change(func(s *memStore) {
					s.calls = 0
					if how == "fails" {
						s.fail = errors.New("down")
					} else {
						s.hang = true
					}
				})
				start := time.Now()
				passed := 0
				for range 100 {
					if get(f, request("GET", "/", "192.0.2.1:1")).Code == 200 {
						passed++
					}
				}
				if passed != 9 { // a third of 30, of which one is gone
					t.Errorf("%d passed, want 9", passed)
				}
				if took := time.Since(start); store.calls != 1 || took > defaultStoreTimeout {
					t.Errorf("%d calls in %v, want one that takes the timeout", store.calls, took)
				}
				time.Sleep(time.Second)
				if get(f, request("GET", "/", "192.0.2.1:1")); store.calls != 2 {
					t.Errorf("%d calls after a second, want 2", store.calls)
				}
				store.change(func(s *memStore) { s.fail, s.hang = nil, false })
				time.Sleep(time.Second)
				passed = 0
				for range 100 {
					if get(f, request("GET", "/", "192.0.2.1:1")).Code == 200 {
						passed++
					}
				}
				if passed < 29 || passed > 30 {
					t.Errorf("%d passed after the store came back, want what it has", passed)
				}
				if text := log.String(); strings.Count(text, "does not answer") != 1 || strings.Count(text, "answers again") != 1 {
					t.Errorf("log\n%s", text)
				}
			})
		})
	}
}

// TestCancelledRequestSaysNothingAboutTheStore is the rule about cancellation.
func TestCancelledRequestSaysNothingAboutTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &memStore{hang: true}
		f := newFirewall(t, Config{Store: store, Policy: Policy{Default: Accept, Limits: []Limit{{ID: "l", Rate: 3, Burst: 30, Shared: true}}}})
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		get(f, request("GET", "/", "192.0.2.1:1").WithContext(ctx))
		if f.known.shared.retryAt.Load() != 0 {
			t.Error("the store is taken for down")
		}
	})
}

// TestSharedTokensAreGivenBack when another limit refuses the request.
func TestSharedTokensAreGivenBack(t *testing.T) {
	store := new(memStore)
	f := newFirewall(t, Config{Store: store, Policy: Policy{Default: Accept, Limits: []Limit{
		{ID: "wide", Rate: 1e-3, Burst: 10, Shared: true},
		{ID: "posts", Rate: 1e-3, Burst: 1, Shared: true, Match: Method("POST")},
		{ID: "local", Rate: 1e-3, Burst: 2},
		{ID: "shadow", Rate: 1e-3, Burst: 1, Shared: true, Mode: Monitor},
	}}})
	for i, c := range []struct {
		method string
		status int
		given  int
	}{{"POST", 200, 0}, {"POST", 429, 1}, {"GET", 200, 1}, {"GET", 429, 1}} {
		if w := get(f, request(c.method, "/", "192.0.2.1:1")); w.Code != c.status || store.given != c.given {
			t.Errorf("request %d: status %d, %d given back, want %d and %d", i, w.Code, store.given, c.status, c.given)
		}
	}
	if n := f.Counters().Limits[3].Requests; n != 1 {
		t.Errorf("the limit in Monitor mode counted %d, want 1", n)
	}
}

func TestSharedBuckets(t *testing.T) {
	names := make(map[string]string)
	for _, l := range []Limit{
		{ID: "a", Rate: 1, Burst: 1}, {ID: "b", Rate: 1, Burst: 1}, {ID: "a", Rate: 2, Burst: 1}, {ID: "a", Rate: 1, Burst: 2},
		{ID: "a", Rate: 1, Burst: 1, Key: HeaderKey("X-A")}, {ID: "a", Rate: 1, Burst: 1, Key: HeaderKey("X-B")},
	} {
		for _, from := range []string{"192.0.2.1:1", "192.0.2.2:1"} {
			f := newFirewall(t, Config{})
			r := request("GET", "/", from)
			r.Header = http.Header{"X-A": {"192.0.2.1/32"}}
			seen := f.requestFacts(r)
			b := boundLimit{Limit: l.withDefaults()}
			bucket := b.sharedBucket(&seen)
			what := fmt.Sprint(l.ID, l.Rate, l.Burst, l.Key, from)
			if l.Key == HeaderKey("X-A") {
				what = "X-A" // for which the address does not matter
			}
			if l.Key == HeaderKey("X-B") {
				what = fmt.Sprint(Limit{ID: "a"}.ID, rate.Limit(1), 1, Key{}, from) // as without
			}
			if other, ok := names[bucket.Key]; ok && other != what || len(bucket.Key) != 43 {
				t.Errorf("%s and %s share %s", what, other, bucket.Key)
			}
			names[bucket.Key] = what
		}
	}
	if len(names) != 4*2+1 {
		t.Errorf("%d buckets, want 9", len(names))
	}
}
