package qps

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
)

// checkTop holds a list to what TopList says, given the true counts.
func checkTop(t *testing.T, l TopList, truth map[string]uint64) {
	t.Helper()
	var total uint64
	for _, n := range truth {
		total += n
	}
	if l.Total != total {
		t.Errorf("%d events, want %d", l.Total, total)
	}
	if err := l.check(); err != nil {
		t.Error(err)
	}
	listed := make(map[string]bool)
	for i, k := range l.Keys {
		listed[k.Key] = true
		if n := truth[k.Key]; n > k.Count || n < k.Count-k.Error {
			t.Errorf("%q has %d ± %d, truly %d", k.Key, k.Count, k.Error, n)
		}
		if i > 0 && k.Count > l.Keys[i-1].Count {
			t.Error("the keys are not sorted")
		}
	}
	for key, n := range truth {
		if !listed[key] && n > l.Rest {
			t.Errorf("%q has %d, but the rest is said to have %d at most", key, n, l.Rest)
		}
	}
}

func FuzzTopK(f *testing.F) {
	f.Add([]byte("the quick brown fox"), uint8(3))
	f.Fuzz(func(t *testing.T, events []byte, shards uint8) {
		topk, err := NewTopK(2)
		if err != nil {
			t.Fatal(err)
		}
		truth := make(map[string]uint64)
		var parts [4]summary
		for i, e := range events {
			key := fmt.Sprint(e)
			truth[key]++
			// Three slots, so that they are always in want.
			parts[i%(int(shards)%4+1)].add(uint64(e), key, 3)
		}
		var lists []TopList
		for i := range parts {
			lists = append(lists, parts[i].list(3))
		}
		checkTop(t, mergeTop(topk.k, lists), truth)
	})
}

// TestTopTenOfZipf draws from 10^6 keys by Zipf's law with exponent 1.1.
func TestTopTenOfZipf(t *testing.T) {
	const workers = 4
	each := 250_000
	if raceEnabled {
		each = 50_000
	}
	topk, err := NewTopK(10)
	if err != nil {
		t.Fatal(err)
	}
	counts := make([]map[string]uint64, workers)
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			counts[i] = make(map[string]uint64)
			zipf := rand.NewZipf(rand.New(rand.NewPCG(uint64(i), 3)), 1.1, 1, 1e6-1)
			for range each {
				key := fmt.Sprintf("/path/%d", zipf.Uint64())
				counts[i][key]++
				topk.Add(key)
			}
		})
	}
	wg.Wait()
	truth := make(map[string]uint64)
	var keys []string
	for _, c := range counts {
		for key, n := range c {
			if truth[key] == 0 {
				keys = append(keys, key)
			}
			truth[key] += n
		}
	}
	slices.SortFunc(keys, func(a, b string) int { return int(truth[b]) - int(truth[a]) })
	l := topk.List()
	checkTop(t, l, truth)
	for _, key := range keys[:10] {
		if !slices.ContainsFunc(l.Keys, func(k TopKey) bool { return k.Key == key }) {
			t.Errorf("%q with %d events is not in %v", key, truth[key], l.Keys)
		}
	}
	// Each of the shards may be off by its own share of the events.
	if bound := uint64(workers*each/(10*topSlots)) + 1; l.Keys[0].Error > bound {
		t.Errorf("an error of %d, want %d at most", l.Keys[0].Error, bound)
	}
}

func TestTopOfRequests(t *testing.T) {
	m := newMeter(t, Config{TopK: 3})
	h := m.Middleware(http.NotFoundHandler())
	for i := range 10 {
		r := httptest.NewRequest("GET", fmt.Sprintf("/p%d?q=%d", i%2, i), nil)
		r.RemoteAddr = "[2001:db8::1]:80"
		if i%5 == 0 {
			r.RemoteAddr = "192.0.2.1:1234"
		}
		r.Header.Set("User-Agent", "agent \xff")
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
	got := roundTrip(t, m.Snapshot()).Top
	want := TopSnapshot{
		Paths:      TopList{Total: 10, Keys: []TopKey{{"/p0", 5, 0}, {"/p1", 5, 0}}},
		Clients:    TopList{Total: 10, Keys: []TopKey{{"2001:db8::1", 8, 0}, {"192.0.2.1", 2, 0}}},
		UserAgents: TopList{Total: 10, Keys: []TopKey{{"agent \uFFFD", 10, 0}}},
	}
	if fmt.Sprint(*got) != fmt.Sprint(want) {
		t.Errorf("%+v\nwant\n%+v", *got, want)
	}
	if newMeter(t, Config{}).Snapshot().Top != nil {
		t.Error("a Meter without TopK has one")
	}
}

func TestTopKLimits(t *testing.T) {
	for _, k := range []int{-1, 0, 101} {
		if _, err := NewTopK(k); err == nil {
			t.Errorf("NewTopK(%d) was accepted", k)
		}
	}
	for in, want := range map[string]string{"1.2.3.4:5": "1.2.3.4", "[::1]:80": "::1", "": "", "@": "@", "pipe": "pipe"} {
		if got := client(in); got != want {
			t.Errorf("client(%q) = %q, want %q", in, got, want)
		}
	}
}
