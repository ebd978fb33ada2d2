package lb

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// limitedServer works on a fixed number of requests at a time, which can be
// changed; the others wait in it, first come, first served. It is for a synctest
// bubble.
type limitedServer struct {
	service atomic.Int64 // mean, in nanoseconds

	mu       sync.Mutex // guards the rest
	workers  int
	busy     int
	queue    []chan struct{}
	rng      *rand.Rand
	inFlight int
	most     int
}

func newLimitedServer(workers int, service time.Duration) *limitedServer {
	s := &limitedServer{workers: workers, rng: rand.New(rand.NewPCG(1, 2))}
	s.service.Store(int64(service))
	return s
}

func (s *limitedServer) resize(workers int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.workers = workers
	s.work()
}

// work needs s.mu.
func (s *limitedServer) work() {
	for s.busy < s.workers && len(s.queue) > 0 {
		s.busy++
		close(s.queue[0])
		s.queue = s.queue[1:]
	}
}

// serve takes the mean service time, give or take a half.
func (s *limitedServer) serve() {
	turn := make(chan struct{})
	s.mu.Lock()
	s.inFlight++
	s.most = max(s.most, s.inFlight)
	s.queue = append(s.queue, turn)
	s.work()
	d := time.Duration(float64(s.service.Load()) * (0.5 + s.rng.Float64()))
	s.mu.Unlock()
	<-turn
	time.Sleep(d)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy--
	s.inFlight--
	s.work()
}

// limitRig is a pool in front of limitedServers with clients that ask without a
// pause.
type limitRig struct {
	*Pool
	servers map[string]*limitedServer
	stop    context.CancelFunc
	clients sync.WaitGroup
	served  atomic.Int64
}

func newLimitRig(t *testing.T, conf PoolConfig, servers ...*limitedServer) *limitRig {
	r := &limitRig{Pool: poolOf(t, conf, len(servers)), servers: make(map[string]*limitedServer)}
	for i, s := range servers {
		r.servers[fmt.Sprint("b", i)] = s
	}
	return r
}

func (r *limitRig) load(clients int) {
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	for range clients {
		r.clients.Go(func() {
			for ctx.Err() == nil {
				picked, err := r.Acquire(ctx, PickInfo{})
				if err != nil {
					time.Sleep(10 * time.Millisecond)
					continue
				}
				began := time.Now()
				r.servers[picked.Backend().ID()].serve()
				r.served.Add(1)
				picked.Done(Outcome{Status: 200, Duration: time.Since(began)})
			}
		})
	}
}

// unload returns when nobody asks any more.
func (r *limitRig) unload() {
	r.stop()
	r.clients.Wait()
}

// after lets time pass for the limits to settle and returns the median of
// backend i's over the four seconds that follow: for a part of them it may be
// low, as latency without load is measured.
func (r *limitRig) after(d time.Duration, i int) float64 {
	time.Sleep(d)
	var limits []int64
	for range 400 {
		time.Sleep(10 * time.Millisecond)
		limits = append(limits, r.Status()[i].Limit)
	}
	slices.Sort(limits)
	return float64(limits[len(limits)/2])
}

func between(t *testing.T, what string, got, least, most float64) {
	t.Helper()
	if !(got >= least && got <= most) {
		t.Errorf("%s: %.1f, want %v to %v", what, got, least, most)
	}
}

// The limit comes to what the backend can work on and some more, and follows it
// down and up.
func TestAdaptiveLimitFollowsTheCapacity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newLimitedServer(10, 10*time.Millisecond)
		r := newLimitRig(t, PoolConfig{AdaptiveLimit: new(AdaptiveLimit)}, server)
		if got := r.Status()[0].Limit; got != 20 {
			t.Errorf("the limit begins with %d, want 20", got)
		}
		r.load(300)
		defer r.Close()
		defer r.unload()
		for _, workers := range []int{10, 40, 5, 100, 10} {
			server.resize(workers)
			between(t, fmt.Sprint("limit with ", workers, " workers"), r.after(3*time.Second, 0), float64(workers), 2*float64(workers)+4)
			served := r.served.Load()
			const seconds = 4 // in which latency without load may be measured
			time.Sleep(seconds * time.Second)
			between(t, fmt.Sprint("requests in a second with ", workers, " workers"), float64(r.served.Load()-served)/seconds, 95*float64(workers), 105*float64(workers))
		}
		between(t, "base latency in ms", r.Status()[0].BaseLatency.Seconds()*1000, 8, 13)
	})
}

// Without a measurement, the latency of a service that became slower would be
// taken for a load.
func TestAdaptiveLimitMeasuresAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newLimitedServer(30, 10*time.Millisecond)
		r := newLimitRig(t, PoolConfig{AdaptiveLimit: &AdaptiveLimit{Interval: 10 * time.Second}}, server)
		r.load(200)
		defer r.Close()
		defer r.unload()
		between(t, "limit at first", r.after(5*time.Second, 0), 30, 64)
		server.service.Store(int64(50 * time.Millisecond))
		between(t, "limit when each request takes longer", r.after(12*time.Second, 0), 24, 64)
		between(t, "base latency in ms", r.Status()[0].BaseLatency.Seconds()*1000, 40, 65)
		server.service.Store(int64(5 * time.Millisecond))
		between(t, "limit when each takes less", r.after(12*time.Second, 0), 24, 64)
		between(t, "base latency in ms", r.Status()[0].BaseLatency.Seconds()*1000, 4, 6.5)
	})
}

// One backend at a time is measured, so that the others bear the load.
func TestAdaptiveLimitMeasuresOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		servers := []*limitedServer{newLimitedServer(20, 10*time.Millisecond), newLimitedServer(20, 10*time.Millisecond), newLimitedServer(20, 10*time.Millisecond)}
		r := newLimitRig(t, PoolConfig{AdaptiveLimit: &AdaptiveLimit{Interval: time.Second}}, servers...)
		r.load(200)
		defer r.Close()
		defer r.unload()
		time.Sleep(3 * time.Second)
		seen := make(map[string]bool)
		for range 3000 {
			time.Sleep(time.Millisecond)
			var least []string
			for _, s := range r.Status() {
				if s.Limit == 3 {
					least = append(least, s.ID)
					seen[s.ID] = true
				}
			}
			if len(least) > 1 {
				t.Fatalf("%q are held at the least at once", least)
			}
		}
		if len(seen) != 3 {
			t.Errorf("%v have been measured, want all", seen)
		}
	})
}

// A limit that is not made use of says nothing, and must not have grown beyond
// all bounds when the load comes.
func TestAdaptiveLimitOfAnIdleBackendStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newLimitedServer(10, 10*time.Millisecond)
		r := newLimitRig(t, PoolConfig{AdaptiveLimit: new(AdaptiveLimit)}, server)
		r.load(2)
		time.Sleep(time.Minute)
		r.unload()
		if got := r.Status()[0].Limit; got != 20 {
			t.Errorf("the limit is %d, want the 20 that it began with", got)
		}
		r.load(300)
		time.Sleep(2 * time.Second)
		r.unload()
		r.Close()
		if server.most > 40 {
			t.Errorf("the backend had %d requests at a time, want 40 at most", server.most)
		}
	})
}

// The queue and the limit together: a burst waits rather than drown the backend,
// and what the queue cannot take is refused.
func TestAdaptiveLimitAndQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := newLimitedServer(5, 10*time.Millisecond)
		r := newLimitRig(t, PoolConfig{AdaptiveLimit: &AdaptiveLimit{Max: 20}, MaxQueue: 10}, server)
		r.load(60)
		defer r.Close()
		time.Sleep(5 * time.Second)
		if n := r.Queued(); n != 10 {
			t.Errorf("%d wait, want 10", n)
		}
		if _, err := r.Acquire(t.Context(), PickInfo{}); !errors.Is(err, ErrBusy) {
			t.Errorf("the queue is full, but Acquire says %v", err)
		}
		r.unload()
		// Those that wait get room when the limit rises, not only when one is done.
		b := r.backends[0]
		b.limit.Store(1)
		first, err := r.Acquire(t.Context(), PickInfo{})
		if err != nil {
			t.Fatal(err)
		}
		var got atomic.Int64
		for range 3 {
			go func() {
				if _, err := r.Acquire(context.Background(), PickInfo{}); err == nil {
					got.Add(1)
				}
			}()
		}
		synctest.Wait()
		b.limiter.mu.Lock()
		b.limiter.limit = 10
		b.limiter.mu.Unlock()
		b.limiter.measured = time.Now().Add(-measureGiveUp) // its end sets the limit
		first.Done(Outcome{Status: 200, Duration: time.Millisecond})
		synctest.Wait()
		if got.Load() != 3 {
			t.Errorf("%d of 3 got room", got.Load())
		}
	})
}

// A backend that refuses, fast as that is, gets less.
func TestAdaptiveLimitFallsWhenRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := poolOf(t, PoolConfig{AdaptiveLimit: &AdaptiveLimit{Start: 100}}, 1)
		defer p.Close()
		round := func(o Outcome) int64 {
			for range 100 {
				var all []Picked
				for range p.Status()[0].Limit {
					picked, err := p.Pick(PickInfo{})
					if err != nil {
						t.Fatal(err)
					}
					all = append(all, picked)
				}
				time.Sleep(o.Duration)
				for _, picked := range all {
					picked.Done(o)
				}
			}
			return p.Status()[0].Limit
		}
		if got := round(Outcome{Status: 200, Duration: 10 * time.Millisecond}); got < 150 {
			t.Errorf("the limit is %d without any trouble, want it to grow", got)
		}
		if got := round(Outcome{Result: Canceled, Duration: time.Second}); got < 150 {
			t.Errorf("the limit is %d after clients went away, want it unchanged", got)
		}
		if got := round(Outcome{Status: 503, Duration: 10 * time.Millisecond}); got != 3 {
			t.Errorf("the limit is %d when all is refused, want the least, 3", got)
		}
		if got := round(Outcome{Status: 200, Duration: 10 * time.Millisecond}); got < 10 {
			t.Errorf("the limit is %d after the trouble, want it to grow again", got)
		}
		if got := round(Outcome{Result: Failed, Err: errors.New("reset"), Duration: 10 * time.Millisecond}); got != 3 {
			t.Errorf("the limit is %d when all fails, want the least, 3", got)
		}
	})
}

// A measurement that gets no requests ends with the first that comes, and stands
// in nobody's way.
func TestAdaptiveLimitGivesUpMeasuring(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := poolOf(t, PoolConfig{AdaptiveLimit: new(AdaptiveLimit)}, 2)
		defer p.Close()
		fill := func(i int) {
			b := p.backends[i]
			for range limitLeast {
				b.inFlight.Add(10)
				Picked{backend: b, pool: p}.Done(Outcome{Status: 200, Duration: limitWindow})
				b.inFlight.Add(-9)
			}
		}
		time.Sleep(limitWindow)
		fill(0)
		time.Sleep(limitWindow)
		fill(1)
		if a, b := p.Status()[0].Limit, p.Status()[1].Limit; a != 3 || b <= 3 {
			t.Fatalf("limits %d and %d, want the first to be measured", a, b)
		}
		time.Sleep(measureGiveUp)
		fill(1)
		if got := p.Status()[1].Limit; got != 3 {
			t.Errorf("the limit of the second is %d, want it to be measured", got)
		}
		fill(0)
		if got := p.Status()[0].Limit; got <= 3 {
			t.Errorf("the limit of the first is %d, want the one before the measurement", got)
		}
	})
}

func TestAdaptiveLimitNamesEveryMistake(t *testing.T) {
	for _, c := range []struct {
		conf        AdaptiveLimit
		maxInFlight int
		want        []string
	}{
		{AdaptiveLimit{Min: -1, Max: -2, Start: limitMax + 1, Tolerance: -3, Interval: -4}, 0,
			[]string{"Min is -1", "Max is -2", "Start is 1000001", "Tolerance is -3", "Interval is -4ns"}},
		{AdaptiveLimit{Max: 11}, 10, []string{"Max is 11, want PoolConfig.MaxInFlight, which is 10"}},
		{AdaptiveLimit{Min: 11}, 10, []string{"Min is 11, want Max, which is 10"}},
		{AdaptiveLimit{Min: 5, Start: 4}, 0, []string{"Start is 4, want from Min to Max, which are 5 and 1000"}},
		{AdaptiveLimit{}, 1, nil},
		{AdaptiveLimit{Min: 50}, 0, nil},
	} {
		_, err := NewPool(PoolConfig{AdaptiveLimit: &c.conf, MaxInFlight: c.maxInFlight})
		if (err != nil) != (c.want != nil) {
			t.Errorf("%+v: error %v", c.conf, err)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: the error lacks %q:\n%v", c.conf, want, err)
			}
		}
	}
}
