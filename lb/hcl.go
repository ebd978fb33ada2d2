package lb

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// HotColdLexicographic chooses by what the backends say about themselves, which
// is more than what one balancer knows of several: a few reports, of backends at
// random, lie ready, and each request uses one of them. Backends with more
// requests in flight than most are hot. The request goes to the cold one with the
// lowest latency, or, if all are hot, to that with the fewest in flight. Choose
// it if several balancers stand before the same backends, the more the better;
// for one, [LeastRequest] does better and asks nobody.
//
// Reports come by Probe, which asks two backends at random for each request that
// ends, and by [Outcome].Load, from backends that add their [Load] to responses,
// which is cheaper and nearly as good. A report is used once and lives for a
// second. Without any the choice is that of [PowerOfTwoChoices]. One request in
// 16 is sent by that in any case, so that a backend of which nothing is heard is
// not forgotten. It is Prequal (Wydrowski and others, Load is not what you should
// balance, NSDI 2024). It is a value without state.
type HotColdLexicographic struct {
	// Probe asks a backend for its load. It runs in a goroutine of its own, 64 at
	// a time at most, until the context ends: after a second, or when the pool is
	// closed. Nil means that reports come with responses only.
	Probe func(context.Context, *Backend) (Load, error)
	// Quantile is that of the reported requests in flight above which a backend is
	// hot. Outside of (0, 1), such as 0, it means 0.84.
	Quantile float64
}

const (
	reportsMax   = 16 // that lie ready
	reportMaxAge = time.Second
	reportedMax  = 64 // of the reports from which the quantile is taken
	probesMax    = 64 // that run at a time
	probesEach   = 2  // for each request: one is used, and one more to compare with
	probeTimeout = time.Second
)

// Build implements [Strategy].
func (s HotColdLexicographic) Build(backends []*Backend) Picker {
	if !(s.Quantile > 0 && s.Quantile < 1) {
		s.Quantile = 0.84
	}
	p := &hotCold{fallback: powerOfTwo{newSampler(backends)}, probe: s.Probe, quantile: s.Quantile}
	// With a report of nearly everyone, all requests would run to the same best.
	p.limit = min(reportsMax, max(1, len(backends)/2))
	p.clock.advance()
	return p
}

// report is a Load that lies ready.
type report struct {
	backend  *Backend
	inFlight int
	latency  time.Duration
	at       tick
}

type hotCold struct {
	fallback powerOfTwo
	probe    func(context.Context, *Backend) (Load, error)
	quantile float64
	limit    int
	clock    coarseClock
	probing  atomic.Int64

	ready    atomic.Int32 // n, for those who do not hold mu
	mu       sync.Mutex   // guards the rest; it is held for some nanoseconds
	reports  [reportsMax]report
	n        int              // of reports
	dropOld  bool             // else the worst: they take turns
	newest   [reportedMax]int // requests in flight that were reported, round and round
	sorted   [reportedMax]int // the same, in order
	reported int              // how many there have been
}

// Pick uses a report up.
func (p *hotCold) Pick(info PickInfo) *Backend {
	if p.ready.Load() > 0 && rand.Uint64()%exploreEach != 0 {
		if b := p.pickReported(info); b != nil {
			return b
		}
	}
	return p.fallback.Pick(info)
}

// exploreEach is how many requests pass for each that is sent without regard to
// the reports.
const exploreEach = 16

func (p *hotCold) pickReported(info PickInfo) *Backend {
	// Who finds somebody else at the reports does not wait: it would have been one
	// report of many.
	if !p.mu.TryLock() {
		return nil
	}
	defer p.unlock()
	now := p.clock.now()
	hot := p.hotAbove()
	best := -1
	for i := 0; i < p.n; {
		r := &p.reports[i]
		if r.at.since(now) > ticksOf(reportMaxAge) {
			p.drop(i)
			continue
		}
		if !info.HasTried(r.backend) && (best < 0 || r.better(&p.reports[best], hot)) {
			best = i
		}
		i++
	}
	if best < 0 || p.n < 2 && p.limit > 1 {
		return nil
	}
	b := p.reports[best].backend
	p.drop(best)
	// What else is said about this backend is true no more.
	for i := range p.n {
		if r := &p.reports[i]; r.backend == b {
			r.inFlight++
		}
	}
	return b
}

func (p *hotCold) unlock() {
	// A processor that only looks whether there is a report keeps its copy.
	if n := int32(p.n); p.ready.Load() != n {
		p.ready.Store(n)
	}
	p.mu.Unlock()
}

// hotAbove needs p.mu.
func (p *hotCold) hotAbove() int {
	n := min(p.reported, reportedMax)
	if n == 0 {
		return 0
	}
	return p.sorted[int(p.quantile*float64(n))]
}

// better is the order that gives the strategy its name.
func (r *report) better(s *report, hot int) bool {
	rCold, sCold := r.inFlight <= hot, s.inFlight <= hot
	switch {
	case rCold != sCold:
		return rCold
	case rCold:
		return r.latency < s.latency
	}
	return r.inFlight < s.inFlight
}

// drop needs p.mu. It keeps the order, which is that of age.
func (p *hotCold) drop(i int) {
	copy(p.reports[i:p.n], p.reports[i+1:p.n])
	p.n--
	p.reports[p.n] = report{}
}

// Done implements [Observer].
func (p *hotCold) Done(b *Backend, o Outcome) {
	p.clock.advance()
	if o.Load != nil {
		p.note(b, *o.Load)
	}
}

// prober is a Picker that asks backends about their load. Done calls ask for each
// request, with a context that ends with the pool.
type prober interface{ ask(context.Context) }

func (p *hotCold) ask(ctx context.Context) {
	if p.probe == nil || ctx.Err() != nil {
		return
	}
	for range probesEach {
		if p.probing.Add(1) > probesMax {
			p.probing.Add(-1)
			return
		}
		go p.askOne(ctx, p.fallback.sample())
	}
}

func (p *hotCold) askOne(ctx context.Context, b *Backend) {
	defer p.probing.Add(-1)
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	if load, err := p.probe(ctx, b); err == nil {
		p.note(b, load)
	}
}

// note takes a report in; one that lies ready makes room: by turns the oldest,
// and the worst, lest the bad ones stay because the good ones are used.
func (p *hotCold) note(b *Backend, l Load) {
	now := p.clock.advance()
	p.mu.Lock()
	defer p.unlock()
	p.count(max(0, l.InFlight))
	if p.n == p.limit {
		worst := 0
		if p.dropOld = !p.dropOld; !p.dropOld {
			hot := p.hotAbove()
			for i := 1; i < p.n; i++ {
				if p.reports[worst].better(&p.reports[i], hot) {
					worst = i
				}
			}
		}
		p.drop(worst)
	}
	p.reports[p.n] = report{b, max(0, l.InFlight), l.Latency, now}
	p.n++
}

// count puts a number into the order, in the place of the oldest one.
func (p *hotCold) count(inFlight int) {
	n := min(p.reported, reportedMax)
	at := p.reported % reportedMax
	if n == reportedMax {
		i, _ := slices.BinarySearch(p.sorted[:n], p.newest[at])
		copy(p.sorted[i:], p.sorted[i+1:])
		n--
	}
	i, _ := slices.BinarySearch(p.sorted[:n], inFlight)
	copy(p.sorted[i+1:n+1], p.sorted[i:n])
	p.sorted[i] = inFlight
	p.newest[at] = inFlight
	p.reported++
}
