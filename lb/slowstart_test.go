package lb

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func weights(p *Pool) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []int
	for _, b := range p.backends {
		out = append(out, b.Weight())
	}
	return fmt.Sprint(out)
}

func TestSlowStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := poolOf(t, PoolConfig{SlowStart: 20 * time.Second, Strategy: WeightedRoundRobin{}}, 2)
		defer p.Close()
		if got := weights(p); got != "[1 1]" {
			t.Errorf("at the start of the pool %s, want no slow start, as nobody else is warm", got)
		}
		if err := p.Upsert(BackendConfig{ID: "new", URL: "http://h", Weight: 3}); err != nil {
			t.Fatal(err)
		}
		expect := func(want string) {
			t.Helper()
			synctest.Wait()
			if got := weights(p); got != want {
				t.Errorf("weights %s, want %s", got, want)
			}
			if w := p.Status()[2].Weight; w != 3 {
				t.Errorf("the status tells of the weight %d, want 3 as configured", w)
			}
		}
		expect("[100 100 15]")
		time.Sleep(10 * time.Second)
		expect("[100 100 150]")
		got := 0
		for range 350 {
			if pickID(t, p, PickInfo{}) == "new" {
				got++
			}
		}
		if got != 150 {
			t.Errorf("half warm it got %d of 350, want 150", got)
		}
		time.Sleep(9 * time.Second)
		expect("[100 100 285]")
		p.Drain("b0")
		p.Resume("b0") // which comes back cold
		expect("[5 100 285]")
		time.Sleep(time.Second)
		expect("[5 100 300]")
		time.Sleep(19 * time.Second)
		expect("[1 1 3]")
		p.mu.Lock()
		if p.step != nil {
			t.Error("a timer runs though all are warm")
		}
		p.mu.Unlock()
		p.Drain("b0")
		p.Resume("b0") // Close ends a slow start, or the bubble would not end
	})
}

func TestUpsertAndRemove(t *testing.T) {
	p := poolOf(t, PoolConfig{}, 3)
	before := slices.Clone(p.backends)
	if err := p.Upsert(BackendConfig{ID: "b1", URL: "http://192.0.2.1:2", Weight: 9, Priority: 1, Zone: "z"}, BackendConfig{ID: "b2", URL: "http://other"}, BackendConfig{ID: "b3", URL: "http://new"}); err != nil {
		t.Fatal(err)
	}
	if len(p.backends) != 4 || p.backends[0] != before[0] || p.backends[1] != before[1] {
		t.Errorf("%v after Upsert, of %v", p.backends, before)
	}
	if s := p.Status()[1]; s.Weight != 9 || s.Priority != 1 || s.Zone != "z" {
		t.Errorf("b1 is %+v", s)
	}
	if p.backends[2] == before[2] || !before[2].removed {
		t.Error("another server under the name b2 is taken for the old one")
	}
	if err := p.Upsert(BackendConfig{ID: "b4", URL: "http://h"}, BackendConfig{URL: "bad"}); err == nil || len(p.backends) != 4 {
		t.Errorf("Upsert with a mistake: %v, and %d backends", err, len(p.backends))
	}
	if err := p.Remove("b0", "nobody"); err == nil || len(p.backends) != 4 {
		t.Errorf("Remove of nobody: %v, and %d backends", err, len(p.backends))
	}
	if err := p.Remove("b0", "b3"); err != nil || len(p.backends) != 2 || !before[0].removed {
		t.Errorf("Remove: %v, and %v are left", err, p.backends)
	}
	for range 5 {
		if got := pickID(t, p, PickInfo{}); got == "b0" || got == "b3" {
			t.Errorf("picked %s, which is gone", got)
		}
	}
	many := make([]BackendConfig, maxBackends)
	for i := range many {
		many[i] = BackendConfig{ID: fmt.Sprint("m", i), URL: "http://h"}
	}
	if err := p.Upsert(many...); err == nil || len(p.backends) != 2 {
		t.Errorf("too many: %v, and %d backends", err, len(p.backends))
	}
	p.Close()
	if p.Upsert() != ErrClosed || p.Remove() != ErrClosed {
		t.Error("a closed pool can be changed")
	}
}

// TestUpdatesUnderLoad: at 1,000 changes of the pool a second no request fails,
// and a backend that stays keeps its connections.
func TestUpdatesUnderLoad(t *testing.T) {
	ok := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	var opened sync.Map // the connections that the backend that stays has seen
	steady := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		opened.Store(r.RemoteAddr, true)
		io.WriteString(w, "ok")
	})
	stays, comes, goes := newMortal(t, "127.0.0.1:0", steady), newMortal(t, "127.0.0.1:0", ok), newMortal(t, "127.0.0.1:0", ok)
	const workers, updates = 4, 1000
	r := newRig(t, PoolConfig{SlowStart: 100 * time.Millisecond, Outlier: new(OutlierDetection)}, ProxyConfig{}, nil, stays.ln.Addr().String())
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: workers}}
	defer client.CloseIdleConnections()
	stop := make(chan struct{})
	var requests atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				res, err := client.Get(r.server.URL)
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode != 200 || string(body) != "ok" {
					t.Errorf("%d %q, %v", res.StatusCode, body, err)
					return
				}
				requests.Add(1)
			}
		})
	}
	a := BackendConfig{ID: "a", URL: "http://" + comes.ln.Addr().String()}
	b := BackendConfig{ID: "b", URL: "http://" + goes.ln.Addr().String()}
	first := BackendConfig{ID: "b0", URL: "http://" + stays.ln.Addr().String()}
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for i := range updates {
		<-ticker.C
		var err error
		switch i % 6 {
		case 0:
			err = r.pool.Upsert(a, b)
		case 1:
			first.Weight = 1 + i%5
			err = r.pool.Upsert(first)
		case 2:
			err = r.pool.Drain("a")
		case 3:
			err = r.pool.Remove("b")
		case 4:
			err = r.pool.Resume("a")
		case 5:
			err = r.pool.Set([]BackendConfig{first})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
	n := 0
	opened.Range(func(any, any) bool { n++; return true })
	if n > workers {
		t.Errorf("the backend that stayed saw %d connections of %d workers", n, workers)
	}
	if s := r.pool.Status()[0]; s.Requests == 0 || s.Requests >= uint64(requests.Load()) {
		t.Errorf("it got %d of %d requests, want its statistics kept, and others to get some", s.Requests, requests.Load())
	}
}
