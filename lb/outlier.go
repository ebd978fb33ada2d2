package lb

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"sync/atomic"
	"time"
)

// OutlierDetection ejects backends by what becomes of the requests that they
// get, as opposed to [HealthCheck], which asks: a server whose /healthz is fine
// may fail at everything else. An ejected backend gets no requests for a time
// that grows with each ejection. Then it is on trial: its first failure ejects it
// again, unless failures in a row count for nothing, and its first success ends the
// trial. Its zero value is usable.
//
// Two signs are looked for: failures in a row, which tell of a backend that is
// broken and are acted upon at once; and, once in an Interval, a success rate
// that is out of line with the others', which tells of one that is half broken.
// A request that its client gave up is no sign of anything.
//
// It is a circuit breaker for each backend: see [Circuit].
type OutlierDetection struct {
	// Consecutive is how many requests must fail in a row. 0 means 5, a negative
	// number that nobody counts.
	Consecutive int
	// FailureStatus says whether a response of a status counts as a failure, as
	// no response always does. Nil means 502, 503 and 504, with which servers
	// speak of themselves. 500 is left out, as a client that knows a path that
	// gives one could have servers ejected with it.
	FailureStatus func(status int) bool
	// Interval is the time between comparisons. 0 means 10 s.
	Interval time.Duration
	// Deviations is how many standard deviations below the mean a success rate
	// must be. 0 means 1.9, a negative number that rates are not compared.
	Deviations float64
	// LatencyFactor ejects a backend whose mean latency, to the end of the
	// response, is more than so many times the median of all. 0 means that
	// latencies are not compared; otherwise it must be above 1.
	LatencyFactor float64
	// MinRequests is how many requests a backend must have had in an Interval to
	// be compared. 0 means 100.
	MinRequests int
	// MinBackends is how many such backends there must be. 0 means 5, and 3 is
	// the least: of two, nobody can say which is out of line. Nothing among n
	// backends is more than √(n−1) deviations away from their mean, so that 3 or 4
	// need Deviations below the default.
	MinBackends int
	// EjectionTime is how long the first ejection lasts, and what each further
	// one adds; each Interval without one takes a step back. 0 means 30 s.
	EjectionTime time.Duration
	// MaxEjectionTime bounds an ejection. 0 means 5 min, or EjectionTime if that
	// is more.
	MaxEjectionTime time.Duration
	// MaxEjected is the percentage of the backends that may be ejected at a time,
	// 100 at most. Of two backends or more, one always may; the last never. 0
	// means 50.
	MaxEjected int
}

func (o *OutlierDetection) validate() error {
	var errs []error
	complain := func(field string, found any, want string) {
		errs = append(errs, fmt.Errorf("lb: OutlierDetection.%s is %v, want %s", field, found, want))
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{{"Interval", o.Interval}, {"EjectionTime", o.EjectionTime}, {"MaxEjectionTime", o.MaxEjectionTime}} {
		if d.value < 0 {
			complain(d.name, d.value, "0 for the default or more")
		}
	}
	if o.MaxEjectionTime > 0 && o.MaxEjectionTime < o.EjectionTime {
		complain("MaxEjectionTime", o.MaxEjectionTime, fmt.Sprintf("EjectionTime, which is %v, or more", o.EjectionTime))
	}
	if math.IsNaN(o.Deviations) {
		complain("Deviations", o.Deviations, "a number")
	}
	if o.LatencyFactor != 0 && !(o.LatencyFactor > 1) {
		complain("LatencyFactor", o.LatencyFactor, "0 for none or more than 1")
	}
	if o.MinRequests < 0 {
		complain("MinRequests", o.MinRequests, "0 for the default or more")
	}
	if o.MinBackends != 0 && o.MinBackends < 3 {
		complain("MinBackends", o.MinBackends, "0 for the default, or 3 or more")
	}
	if o.MaxEjected < 0 || o.MaxEjected > 100 {
		complain("MaxEjected", o.MaxEjected, "0 for the default, or up to 100")
	}
	return errors.Join(errs...)
}

func (o OutlierDetection) withDefaults() OutlierDetection {
	setDefault(&o.Consecutive, 5)
	setDefault(&o.Interval, 10*time.Second)
	setDefault(&o.Deviations, 1.9)
	setDefault(&o.MinRequests, 100)
	setDefault(&o.MinBackends, 5)
	setDefault(&o.EjectionTime, 30*time.Second)
	setDefault(&o.MaxEjectionTime, max(5*time.Minute, o.EjectionTime))
	setDefault(&o.MaxEjected, 50)
	if o.FailureStatus == nil {
		o.FailureStatus = func(status int) bool {
			return status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout
		}
	}
	return o
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// conduct is what outlier detection remembers of a backend.
type conduct struct {
	inARow    atomic.Int64 // failures
	good, bad atomic.Int64 // since the last comparison
	took      atomic.Int64 // nanoseconds, of the good ones

	ejected atomic.Bool
	trial   atomic.Bool // it was ejected, and nothing has succeeded since

	// The rest is guarded by the pool's mutex.
	until time.Time // of the ejection
	times int       // that EjectionTime counts
	back  *time.Timer
}

// observe takes note of the end of a request to b.
func (p *Pool) observe(b *Backend, o Outcome) {
	d := p.conf.Outlier
	if d == nil || o.Result == Canceled {
		return
	}
	if o.Result == Succeeded && !d.FailureStatus(o.Status) {
		b.conduct.good.Add(1)
		b.conduct.took.Add(int64(o.Duration))
		if b.conduct.inARow.Load() != 0 {
			b.conduct.inARow.Store(0)
		}
		if b.conduct.trial.Load() && !b.conduct.ejected.Load() {
			b.conduct.trial.Store(false)
		}
		return
	}
	if o.Result != Succeeded && isLocal(o.Err) {
		return
	}
	b.conduct.bad.Add(1)
	// While the backend is ejected, the failures of requests that it got before
	// add up, but it must begin anew afterwards.
	n, trial := b.conduct.inARow.Add(1), b.conduct.trial.Load()
	if d.Consecutive < 0 || n < int64(d.Consecutive) && !trial || b.conduct.ejected.Load() {
		return
	}
	err := o.Err
	if err == nil {
		err = fmt.Errorf("status %d", o.Status)
	}
	if trial {
		p.eject(b, fmt.Errorf("failed when it was tried again: %w", err))
	} else {
		p.eject(b, fmt.Errorf("%d failures in a row, the last: %w", n, err))
	}
}

// eject ejects b unless too many are ejected already.
func (p *Pool) eject(b *Backend, why error) {
	p.mu.Lock()
	p.ejectLocked(b, why)
	p.mu.Unlock()
	p.notify()
}

// ejectLocked needs p.mu.
func (p *Pool) ejectLocked(b *Backend, why error) {
	if b.removed || b.conduct.ejected.Load() || !p.mayEject() {
		return
	}
	d, c := p.conf.Outlier, &b.conduct
	from := b.State()
	// It is compared as a quotient, as the product might overflow.
	length := d.MaxEjectionTime
	if c.times++; time.Duration(c.times) <= d.MaxEjectionTime/d.EjectionTime {
		length = d.EjectionTime * time.Duration(c.times)
	}
	c.until = time.Now().Add(length)
	c.ejected.Store(true)
	c.trial.Store(true)
	c.back = time.AfterFunc(length, func() { p.readmit(b) })
	b.noteError(why)
	p.changed(b, from, why)
}

// mayEject needs p.mu.
func (p *Pool) mayEject() bool {
	n, ejected := len(p.backends), 0
	for _, b := range p.backends {
		if b.conduct.ejected.Load() {
			ejected++
		}
	}
	return ejected < min(n-1, max(1, n*p.conf.Outlier.MaxEjected/100))
}

// readmit ends the ejection of b.
func (p *Pool) readmit(b *Backend) {
	p.mu.Lock()
	if !b.removed && b.conduct.ejected.Load() {
		from := b.State()
		b.conduct.until = time.Time{}
		b.conduct.inARow.Store(0)
		b.conduct.ejected.Store(false)
		p.changed(b, from, nil)
	}
	p.mu.Unlock()
	p.notify()
}

// keepComparing compares the backends until the pool closes.
func (p *Pool) keepComparing() {
	ticker := time.NewTicker(p.conf.Outlier.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-ticker.C:
		}
		p.compare()
	}
}

// compare ejects those that the last Interval has shown to be out of line.
func (p *Pool) compare() {
	p.mu.Lock()
	var all []record
	for _, b := range p.backends {
		c := &b.conduct
		r := record{backend: b, good: c.good.Swap(0), bad: c.bad.Swap(0), took: c.took.Swap(0)}
		switch {
		case c.ejected.Load():
			continue
		case c.times > 0:
			c.times--
		}
		if r.good+r.bad >= int64(p.conf.Outlier.MinRequests) {
			all = append(all, r)
		}
	}
	for _, o := range p.conf.Outlier.outliers(all) {
		p.ejectLocked(o.backend, o.why)
	}
	p.mu.Unlock()
	p.notify()
}

// record is what a backend has done in an Interval.
type record struct {
	backend         *Backend
	good, bad, took int64
	why             error
}

func (r record) rate() float64    { return float64(r.good) / float64(r.good+r.bad) }
func (r record) latency() float64 { return float64(r.took) / float64(r.good) }

// outliers returns the records that are out of line, the worst first, with the
// reason.
func (o *OutlierDetection) outliers(all []record) []record {
	if len(all) < o.MinBackends {
		return nil
	}
	return append(o.unsuccessful(all), o.slow(all)...)
}

func (o *OutlierDetection) unsuccessful(all []record) []record {
	if o.Deviations < 0 {
		return nil
	}
	var mean, variance float64
	for _, r := range all {
		mean += r.rate() / float64(len(all))
	}
	for _, r := range all {
		variance += (r.rate() - mean) * (r.rate() - mean) / float64(len(all))
	}
	least := mean - o.Deviations*math.Sqrt(variance)
	var out []record
	for _, r := range all {
		// The tiny margin is for rates that are equal but for rounding.
		if r.rate() < least-1e-9 {
			r.why = fmt.Errorf("success rate %.1f %%, want %.1f %% or more, as others have", 100*r.rate(), 100*least)
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b record) int { return cmp.Compare(a.rate(), b.rate()) })
	return out
}

func (o *OutlierDetection) slow(all []record) []record {
	if o.LatencyFactor == 0 {
		return nil
	}
	all = slices.DeleteFunc(slices.Clone(all), func(r record) bool { return r.good == 0 })
	if len(all) < o.MinBackends {
		return nil
	}
	slices.SortFunc(all, func(a, b record) int { return cmp.Compare(b.latency(), a.latency()) })
	most := o.LatencyFactor * all[len(all)/2].latency()
	var out []record
	for _, r := range all {
		if r.latency() <= most {
			break
		}
		r.why = fmt.Errorf("mean latency %v, want %v or less, as others have", time.Duration(r.latency()), time.Duration(most))
		out = append(out, r)
	}
	return out
}
