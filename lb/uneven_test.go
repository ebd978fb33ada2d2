package lb

import (
	"context"
	"fmt"
	"io"
	"log"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// uneven is the model of the simulation, live: ten backends on loopback, each of
// four workers, two of them three times slower, all with brown-outs at random in
// which they are four times slower, behind a Proxy. Requests come at random
// (Poisson), whether others have been answered or not, and what is measured runs
// from the moment at which one was due.
type uneven struct {
	service time.Duration // mean
	load    float64       // relative to the capacity without brown-outs
	length  time.Duration
	seed    uint64
}

const unevenBackends = 10

// unevenServer is one backend.
type unevenServer struct {
	workers  chan struct{}
	slow     float64
	brown    atomic.Bool
	inFlight atomic.Int64
	latency  atomic.Int64 // moving average, in nanoseconds

	mu  sync.Mutex // guards rng
	rng *rand.Rand
}

func (s *unevenServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	began := time.Now()
	s.inFlight.Add(1)
	defer s.inFlight.Add(-1)
	s.workers <- struct{}{}
	s.mu.Lock()
	service := math.Exp(simSigma*s.rng.NormFloat64()-simSigma*simSigma/2) * s.slow
	s.mu.Unlock()
	if s.brown.Load() {
		service *= simBrown
	}
	time.Sleep(time.Duration(service))
	<-s.workers
	old := s.latency.Load()
	latency := old + (time.Since(began).Nanoseconds()-old)/8
	s.latency.Store(latency)
	w.Header()[LoadHeader] = []string{Load{InFlight: int(s.inFlight.Load()), Latency: time.Duration(latency)}.String()}
	io.WriteString(w, "ok")
}

// browns lets the brown-outs come and go until ctx ends.
func (s *unevenServer) browns(ctx context.Context, u uneven, rng *rand.Rand) {
	for brown := false; ; brown = !brown {
		s.brown.Store(brown)
		mean := simBrownEvery / 4 // more often than in the simulation, as the run is short
		if brown {
			mean = 20 * u.service
		}
		if !pauseFor(ctx, time.Duration(rng.ExpFloat64()*float64(mean))) {
			return
		}
	}
}

// run returns the latencies of all requests but those of the first fifth, sorted.
func (u uneven) run(tb testing.TB, strategy Strategy) []time.Duration {
	ctx, cancel := context.WithCancel(tb.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	conf := PoolConfig{Strategy: strategy}
	capacity := 0.0
	for i := range unevenBackends {
		s := &unevenServer{workers: make(chan struct{}, simWorkers), slow: float64(u.service), rng: rand.New(rand.NewPCG(u.seed, uint64(i)))}
		if i%5 == 4 {
			s.slow *= simSlow
		}
		capacity += simWorkers / s.slow * 1e9
		srv := httptest.NewUnstartedServer(s)
		srv.Config.ErrorLog = log.New(io.Discard, "", 0)
		srv.Start()
		defer srv.Close()
		conf.Backends = append(conf.Backends, BackendConfig{ID: fmt.Sprint(i), URL: srv.URL})
		wg.Go(func() { s.browns(ctx, u, rand.New(rand.NewPCG(u.seed, uint64(100+i)))) })
	}
	pool := poolOf(tb, conf, 0)
	defer pool.Close()
	proxy, err := NewProxy(ProxyConfig{Pool: pool})
	if err != nil {
		tb.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(u.seed, 1000))
	var mu sync.Mutex
	var latencies []time.Duration
	var requests sync.WaitGroup
	begin := time.Now()
	for due := begin; due.Sub(begin) < u.length; due = due.Add(time.Duration(rng.ExpFloat64() / (capacity * u.load) * 1e9)) {
		time.Sleep(time.Until(due))
		requests.Go(func() {
			w := &discardWriter{header: make(http.Header)}
			req := httptest.NewRequest("GET", "/", nil)
			proxy.ServeHTTP(w, req)
			latency := time.Since(due)
			mu.Lock()
			defer mu.Unlock()
			if w.status != 200 {
				tb.Errorf("status %d", w.status)
			}
			if due.Sub(begin) > u.length/5 {
				latencies = append(latencies, latency)
			}
		})
	}
	requests.Wait()
	slices.Sort(latencies)
	return latencies
}

func quantileOf(sorted []time.Duration, q float64) time.Duration {
	return sorted[int(q*float64(len(sorted)))]
}

// TestUnevenBackends holds the promise of the default strategy: the p99 is half
// of RoundRobin's at most. RoundRobin gives the slow ones more than they can do,
// so that the margin grows with the length of the run. A machine that is too busy
// to keep up with the load makes both equal: then it is tried again.
func TestUnevenBackends(t *testing.T) {
	for try := 1; ; try++ {
		u := uneven{service: 60 * time.Millisecond, load: 0.7, length: 5 * time.Second, seed: 1}
		turn := quantileOf(u.run(t, RoundRobin{}), 0.99)
		least := quantileOf(u.run(t, LeastRequest{}), 0.99)
		t.Logf("p99: LeastRequest %v, RoundRobin %v", least, turn)
		switch {
		case least <= turn/2:
			return
		case try == 3:
			t.Fatalf("p99 is %v, want half of RoundRobin's %v at most", least, turn)
		}
	}
}

// BenchmarkUneven reports p50, p99 and p99.9 of each strategy, in ms, medians of
// three seeds. Its time per operation means nothing.
//
//	go test ./lb -run '^$' -bench Uneven -benchtime 1x -timeout 30m
func BenchmarkUneven(b *testing.B) {
	for _, s := range []Strategy{
		LeastRequest{}, RoundRobin{}, WeightedRoundRobin{}, Random{}, PowerOfTwoChoices{}, PeakEWMA{}, HotColdLexicographic{}, BoundedLoad{},
	} {
		b.Run(fmt.Sprintf("%T", s)[len("lb."):], func(b *testing.B) {
			const seeds = 3
			quantiles := []float64{0.5, 0.99, 0.999}
			var all [3][seeds]time.Duration
			for seed := range seeds {
				u := uneven{service: 20 * time.Millisecond, load: 0.7, length: 8 * time.Second, seed: uint64(seed)}
				latencies := u.run(b, s)
				for i, q := range quantiles {
					all[i][seed] = quantileOf(latencies, q)
				}
			}
			for i, q := range quantiles {
				slices.Sort(all[i][:])
				b.ReportMetric(float64(all[i][seeds/2].Microseconds())/1000, fmt.Sprintf("p%v-ms", 100*q))
			}
		})
	}
}
