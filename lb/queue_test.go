package lb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestMaxInFlight(t *testing.T) {
	for _, strategy := range []Strategy{RoundRobin{}, LeastRequest{}, Random{}} {
		p := poolOf(t, PoolConfig{MaxInFlight: 2, Strategy: strategy}, 12)
		var all []Picked
		for range 24 {
			picked, err := p.Pick(PickInfo{})
			if err != nil {
				t.Fatalf("%T: after %d: %v", strategy, len(all), err)
			}
			all = append(all, picked)
		}
		if _, err := p.Pick(PickInfo{}); !errors.Is(err, ErrBusy) {
			t.Errorf("%T: all are full, but Pick says %v", strategy, err)
		}
		for _, s := range p.Status() {
			if s.InFlight != 2 || s.Requests != 2 {
				t.Errorf("%T: %+v, want 2 in flight", strategy, s)
			}
		}
		all[5].Done(Outcome{})
		if got := pickID(t, p, PickInfo{}); got != all[5].Backend().ID() {
			t.Errorf("%T: picked %s, want the one with room, %s", strategy, got, all[5].Backend())
		}
		if _, err := p.Pick(PickInfo{Tried: []*Backend{all[5].Backend()}}); !errors.Is(err, ErrBusy) {
			t.Errorf("%T: the one with room has been tried, but Pick says %v", strategy, err)
		}
	}
}

// What is too much for a priority goes to the next.
func TestFullBackendsSpillOver(t *testing.T) {
	p := tiered(t, PoolConfig{MaxInFlight: 1}, "hh h")
	var got []string
	for range 3 {
		picked, err := p.Pick(PickInfo{})
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, picked.Backend().ID())
	}
	if slices.Sort(got[:2]); !slices.Equal(got, []string{"0h0", "0h1", "1h0"}) {
		t.Errorf("picked %q", got)
	}
}

// A strategy hears about each request that it was asked for.
func TestRefusedPicksAreToldOf(t *testing.T) {
	w := new(watcher)
	p := poolOf(t, PoolConfig{Strategy: w, MaxInFlight: 1}, 2)
	p.Pick(PickInfo{})
	// It always says b0, which is full, and it is not believed again.
	if _, err := p.Pick(PickInfo{}); err != ErrBusy {
		t.Errorf("Pick: %v", err)
	}
	if len(w.done) != 1 || w.done[0].Result != Canceled {
		t.Errorf("the strategy was told %+v", w.done)
	}
}

// So it is when all that it has said were full, and the one with room is found
// without it.
func TestGivenUpPicksAreToldOf(t *testing.T) {
	s := new(balanced)
	p := poolOf(t, PoolConfig{Strategy: s, MaxInFlight: 1}, rePicks+3)
	full := slices.Clone(p.backends[:rePicks+2])
	for _, b := range full {
		b.inFlight.Store(1)
	}
	picked, err := p.Pick(PickInfo{})
	if err != nil || picked.Backend() != p.backends[rePicks+2] {
		t.Fatalf("Pick: %v, %v", picked.Backend(), err)
	}
	picked.Done(Outcome{})
	if s.picked != rePicks+1 || s.done != s.picked {
		t.Errorf("the strategy was asked %d times and told %d times, want %d", s.picked, s.done, rePicks+1)
	}
}

// balanced picks the first that was not tried, and counts.
type balanced struct {
	first
	picked, done int
}

func (s *balanced) Build(backends []*Backend) Picker { s.first = backends; return s }
func (s *balanced) Pick(info PickInfo) *Backend      { s.picked++; return s.first.Pick(info) }
func (s *balanced) Done(*Backend, Outcome)           { s.done++ }

// lateRoom makes room after a request has found none and before it waits.
type lateRoom struct {
	first
	held Picked
}

func (s *lateRoom) Build(backends []*Backend) Picker { s.first = backends; return s }

func (s *lateRoom) Pick(info PickInfo) *Backend {
	if len(info.Tried) > 0 && s.held.pool != nil {
		s.held.Done(Outcome{})
		s.held.pool = nil
	}
	return s.first.Pick(info)
}

func TestRoomThatComesBeforeTheWaitIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := new(lateRoom)
		p := poolOf(t, PoolConfig{Strategy: s, MaxInFlight: 1}, 1)
		defer p.Close()
		var err error
		if s.held, err = p.Pick(PickInfo{}); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := p.Acquire(t.Context(), PickInfo{}); err != nil || time.Since(start) != 0 {
			t.Errorf("%v after %v, though there is room", err, time.Since(start))
		}
	})
}

func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := poolOf(t, PoolConfig{MaxInFlight: 1, MaxQueue: 3, QueueTimeout: 10 * time.Second}, 1)
		defer p.Close()
		held, err := p.Acquire(t.Context(), PickInfo{})
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var news []string
		acquire := func(name string, ctx context.Context, hold time.Duration) {
			go func() {
				picked, err := p.Acquire(ctx, PickInfo{})
				mu.Lock()
				news = append(news, fmt.Sprint(name, " ", err))
				mu.Unlock()
				if err == nil {
					time.Sleep(hold)
					picked.Done(Outcome{})
				}
			}()
			synctest.Wait()
		}
		expect := func(want ...string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(news, want) {
				t.Errorf("news %q, want %q", news, want)
			}
			news = nil
		}
		gone, leave := context.WithCancel(t.Context())
		acquire("first", t.Context(), time.Second)
		acquire("second", gone, time.Second)
		acquire("third", t.Context(), time.Second)
		acquire("fourth", t.Context(), time.Second)
		expect("fourth " + ErrBusy.Error()) // the queue takes three
		if n := p.Queued(); n != 3 {
			t.Errorf("%d wait", n)
		}
		// A retry does not wait, as others may be there for what it has tried.
		if _, err := p.Acquire(t.Context(), PickInfo{Tried: []*Backend{{}}}); err != ErrBusy {
			t.Errorf("a retry: %v", err)
		}
		leave()
		expect("second " + context.Canceled.Error())
		held.Done(Outcome{})
		expect("first <nil>")
		time.Sleep(time.Second)
		expect("third <nil>")
		acquire("fifth", t.Context(), 20*time.Second)
		// A new backend has room.
		p.Upsert(BackendConfig{ID: "new", URL: "http://h"})
		expect("fifth <nil>")
		acquire("sixth", t.Context(), 20*time.Second)
		time.Sleep(time.Second) // and third ends
		expect("sixth <nil>")
		acquire("seventh", t.Context(), 0)
		time.Sleep(9 * time.Second)
		expect()
		time.Sleep(time.Second)
		expect("seventh " + ErrBusy.Error())
		acquire("eighth", t.Context(), 0)
		p.Close()
		expect("eighth " + ErrClosed.Error())
		time.Sleep(time.Minute)
		if s := p.Queued(); s != 0 {
			t.Errorf("%d wait at the end", s)
		}
	})
}

// TestQueueLosesNobody has many more clients than room: all of them get through,
// and never more than the limit at a time.
func TestQueueLosesNobody(t *testing.T) {
	p := poolOf(t, PoolConfig{MaxInFlight: 2, MaxQueue: 100, QueueTimeout: 30 * time.Second}, 2)
	var at [2]atomic.Int64
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			for range 100 {
				picked, err := p.Acquire(t.Context(), PickInfo{})
				if err != nil {
					t.Error(err)
					return
				}
				i := int(picked.Backend().ID()[1] - '0')
				if n := at[i].Add(1); n > 2 {
					t.Errorf("%d at a time", n)
				}
				runtime.Gosched()
				at[i].Add(-1)
				picked.Done(Outcome{})
			}
		})
	}
	wg.Wait()
	if n := p.Queued(); n != 0 {
		t.Errorf("%d wait at the end", n)
	}
}

// TestProxyQueues: more clients than the backends may have at a time wait, and
// those that the queue does not take are told to come again.
func TestProxyQueues(t *testing.T) {
	var now, most atomic.Int64
	work := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for n := now.Add(1); ; {
			if m := most.Load(); n <= m || most.CompareAndSwap(m, n) {
				break
			}
		}
		time.Sleep(time.Millisecond)
		now.Add(-1)
		io.WriteString(w, "ok")
	})
	for _, queue := range []int{0, -1} {
		r := newRig(t, PoolConfig{MaxInFlight: 2, MaxQueue: queue, QueueTimeout: 20 * time.Second}, ProxyConfig{}, nil, work)
		client := &http.Client{Transport: new(http.Transport)}
		var served, refused atomic.Int64
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				res, err := client.Get(r.server.URL)
				if err != nil {
					t.Error(err)
					return
				}
				res.Body.Close()
				switch {
				case res.StatusCode == 200:
					served.Add(1)
				case res.StatusCode == 503 && res.Header.Get("Retry-After") != "":
					refused.Add(1)
				default:
					t.Errorf("status %d", res.StatusCode)
				}
			})
		}
		wg.Wait()
		client.CloseIdleConnections()
		if most.Load() > 2 || served.Load()+refused.Load() != 20 || queue == 0 && refused.Load() != 0 {
			t.Errorf("queue %d: %d at a time, %d served, %d refused", queue, most.Load(), served.Load(), refused.Load())
		}
	}
}

// Who comes while others wait goes behind them, even if there is room at that
// moment: it is theirs.
func TestNobodyIsOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := poolOf(t, PoolConfig{MaxInFlight: 1}, 1)
		defer p.Close()
		ahead := p.queue.join()
		var got atomic.Bool
		go func() {
			if _, err := p.Acquire(context.Background(), PickInfo{}); err == nil {
				got.Store(true)
			}
		}()
		synctest.Wait()
		if got.Load() {
			t.Error("it took the room of the one ahead")
		}
		p.queue.leave(ahead)
		synctest.Wait()
		if !got.Load() {
			t.Error("its turn did not come")
		}
	})
}

func TestRetryDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := poolOf(t, PoolConfig{MaxInFlight: 1}, 1)
		defer p.Close()
		if _, err := p.Acquire(t.Context(), PickInfo{}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := p.Acquire(t.Context(), PickInfo{Tried: []*Backend{{}}}); err != ErrBusy || time.Since(began) > 0 {
			t.Errorf("error %v after %v, want ErrBusy at once", err, time.Since(began))
		}
	})
}
