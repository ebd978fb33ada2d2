package qps

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	mostSLOs     = 16
	burnHour     = 3600
	burnHours    = 72 // the longest window
	burnSettling = 15 // seconds in which events of a second may still be recorded
)

// SLO is an objective for the service that requests get: a share of them is to
// be good. A request that ended in a 5xx status or a panic is not good, nor is
// one that was slower than Latency.
type SLO struct {
	// Name tells the objectives apart; 256 bytes of UTF-8 at most, not empty.
	Name string
	// Target is the share of good requests, above 0 and below 1: 0.999 leaves
	// an error budget of one in a thousand.
	Target float64
	// Routes are those whose requests count. Nil means all.
	Routes []string
	// Latency is the longest time that a good request takes. Zero means that
	// time does not matter.
	Latency time.Duration
}

// burnRule is one of the three alerts of "The Site Reliability Workbook",
// chapter 5: the error budget of 30 days burns so many times too fast in both a
// long window, so that the alert matters, and a short one, so that it ends soon
// after the trouble has ended.
type burnRule struct {
	limit       float64
	long, short int64 // seconds
}

// burnWindows are all windows of the rules, the longest last.
var (
	burnRules   = [...]burnRule{{14.4, 3600, 300}, {6, 6 * 3600, 1800}, {1, 72 * 3600, 6 * 3600}}
	burnWindows = [...]int64{300, 1800, 3600, 6 * 3600, 72 * 3600}
)

// Alert says that a burn rule of an [SLO] has begun or ceased to hold.
type Alert struct {
	SLO string
	// At is the beginning of the first second after those that were looked at.
	At time.Time
	// Firing is true at the beginning of the alert and false at its end.
	Firing bool
	Burn   BurnSnapshot
}

// BurnSnapshot is the state of one burn rule. A burn rate is the share of bad
// requests divided by the share that the target allows: at 1 the error budget
// lasts exactly for the time it is meant for.
type BurnSnapshot struct {
	// Limit is the burn rate that both windows must exceed: 14.4, 6 or 1.
	Limit float64 `json:"limit"`
	// Long and Short are the lengths of the windows in nanoseconds.
	Long  time.Duration `json:"long_ns"`
	Short time.Duration `json:"short_ns"`
	// LongRate and ShortRate are the burn rates in these windows, exact to the
	// request. Without requests they are 0.
	LongRate  float64 `json:"long_rate"`
	ShortRate float64 `json:"short_rate"`
	Firing    bool    `json:"firing,omitempty"`
}

// SLOSnapshot is the state of an [SLO] at the last whole second.
type SLOSnapshot struct {
	SLO    string  `json:"slo"`
	Target float64 `json:"target"`
	// Requests and Bad are those of the last three days.
	Requests uint64 `json:"requests"`
	Bad      uint64 `json:"bad"`
	// Burns has one element for each rule, the most urgent first.
	Burns []BurnSnapshot `json:"burns,omitempty"`
}

func (s SLO) check() error {
	var errs []error
	if s.Name == "" || !isLabel(s.Name) {
		errs = append(errs, fmt.Errorf("qps: SLO.Name is %q, want 1 to %d bytes of UTF-8", cut(s.Name), maxLabel))
	}
	if !(s.Target > 0 && s.Target < 1) {
		errs = append(errs, fmt.Errorf("qps: SLO.Target of %q is %v, want more than 0 and less than 1", cut(s.Name), s.Target))
	}
	if s.Latency < 0 {
		errs = append(errs, fmt.Errorf("qps: SLO.Latency of %q is %v, want 0 or more", cut(s.Name), s.Latency))
	}
	return errors.Join(errs...)
}

// objective records the requests of an SLO. They are counted like those of a
// route, and moved every second into a history of three days, where the sums of
// all windows are kept up to date.
type objective struct {
	slo    SLO
	counts series
	state  atomic.Pointer[SLOSnapshot]

	// The rest belongs to the goroutine that watches.
	last    int64 // the newest second in the history
	history [burnHours + 2]*burnPage
	sums    [len(burnWindows)]good
}

// good counts requests, and the bad ones among them.
type good struct{ all, bad uint64 }

type burnPage struct {
	hour    int64
	seconds [burnHour]struct{ all, bad uint32 }
}

func newObjective(s SLO, now int64) *objective {
	s.Routes = slices.Clone(s.Routes)
	o := &objective{slo: s, last: now/int64(time.Second) - 1}
	o.state.Store(o.assess())
	return o
}

func (o *objective) covers(route string) bool {
	return o.slo.Routes == nil || slices.Contains(o.slo.Routes, route)
}

// observe counts a request.
func (o *objective) observe(p place, endNanos int64, elapsed time.Duration, c class) {
	second := uint32(endNanos / int64(time.Second))
	sh := o.counts.shards.at(p)
	o.counts.count(p, &sh.requests, &o.counts.requests, second)
	if c.failed() || o.slo.Latency > 0 && elapsed > o.slo.Latency {
		o.counts.count(p, &sh.errors, &o.counts.errors, second)
	}
}

// at returns the element of a second, nil if there is none.
func (o *objective) at(second int64) *struct{ all, bad uint32 } {
	p := o.history[second/burnHour%int64(len(o.history))]
	if p == nil || p.hour != second/burnHour {
		return nil
	}
	return &p.seconds[second%burnHour]
}

// set makes the counts of a second those given, and brings the windows that
// hold it up to date.
func (o *objective) set(second int64, all, bad uint32) {
	e := o.at(second)
	switch {
	case e == nil && all == 0 && bad == 0:
		return
	case e == nil:
		hour := second / burnHour
		o.history[hour%int64(len(o.history))] = &burnPage{hour: hour}
		e = o.at(second)
	}
	for i, length := range burnWindows {
		if second > o.last-length {
			o.sums[i].all += uint64(all) - uint64(e.all)
			o.sums[i].bad += uint64(bad) - uint64(e.bad)
		}
	}
	e.all, e.bad = all, bad
}

// advance moves the windows on to end with the given second, which is over.
func (o *objective) advance(second int64) {
	for o.last < second {
		o.last++
		for i, length := range burnWindows {
			if e := o.at(o.last - length); e != nil {
				o.sums[i].all -= uint64(e.all)
				o.sums[i].bad -= uint64(e.bad)
			}
		}
	}
}

// harvest takes over the seconds before now: all that are new, and the newest
// of the old ones again, for events that were recorded late.
func (o *objective) harvest(now int64) {
	second := now/int64(time.Second) - 1
	from := max(min(o.last, second-burnSettling), second-windowSeconds) + 1
	o.advance(second)
	o.counts.mu.Lock()
	defer o.counts.mu.Unlock()
	o.counts.drainErrors()
	o.counts.drainRequests()
	for s := from; s <= second; s++ {
		o.set(s, o.counts.requests.at(uint32(s)), o.counts.errors.at(uint32(s)))
	}
}

// assess computes the burn rates of the windows.
func (o *objective) assess() *SLOSnapshot {
	rate := func(length int64) float64 {
		sum := o.sums[slices.Index(burnWindows[:], length)]
		if sum.all == 0 {
			return 0
		}
		return float64(sum.bad) / float64(sum.all) / (1 - o.slo.Target)
	}
	all := o.sums[len(o.sums)-1]
	s := &SLOSnapshot{SLO: o.slo.Name, Target: o.slo.Target, Requests: all.all, Bad: all.bad}
	for _, r := range burnRules {
		b := BurnSnapshot{
			Limit: r.limit, Long: time.Duration(r.long) * time.Second, Short: time.Duration(r.short) * time.Second,
			LongRate: rate(r.long), ShortRate: rate(r.short),
		}
		b.Firing = b.LongRate > r.limit && b.ShortRate > r.limit
		s.Burns = append(s.Burns, b)
	}
	return s
}

// watcher looks at the objectives of a Meter every second.
type watcher struct {
	objectives []*objective
	onAlert    func(Alert)
	logger     *slog.Logger
	now        func() int64
}

// look does what is due at the beginning of a second.
func (w *watcher) look() {
	now := w.now()
	for _, o := range w.objectives {
		before := o.state.Load()
		o.harvest(now)
		state := o.assess()
		o.state.Store(state)
		for i, b := range state.Burns {
			if b.Firing == before.Burns[i].Firing {
				continue
			}
			w.logger.Warn("qps: burn rate", "slo", o.slo.Name, "firing", b.Firing, "limit", b.Limit,
				"long", b.Long, "long_rate", b.LongRate, "short", b.Short, "short_rate", b.ShortRate)
			if w.onAlert != nil {
				w.onAlert(Alert{SLO: o.slo.Name, At: time.Unix(o.last+1, 0).UTC(), Firing: b.Firing, Burn: b})
			}
		}
	}
}

func (w *watcher) run(ctx context.Context) { everySecond(ctx, w.now, w.look) }

// everySecond calls do at the beginning of each second of a clock.
func everySecond(ctx context.Context, now func() int64, do func()) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(time.Duration(int64(time.Second) - now()%int64(time.Second)))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			do()
		}
	}
}

// background is the goroutines of something that has a Close.
type background struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func (b *background) start(run ...func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel = cancel
	for _, r := range run {
		b.wg.Go(func() { r(ctx) })
	}
}

func (b *background) stop() {
	if b.cancel != nil {
		b.cancel()
	}
	b.wg.Wait()
}
