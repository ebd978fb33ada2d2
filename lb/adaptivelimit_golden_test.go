package lb

import (
	"fmt"
	"math"
	"net/http"
	"testing"
	"time"
)

// limiterOf has a limit of 100 and a latency without load of 10 ms.
func limiterOf(conf AdaptiveLimit) *limiter {
	l := newLimiter(conf.withDefaults(0))
	l.limit, l.base, l.peak = 100, float64(10*time.Millisecond), 100
	return l
}

// TestLimitGolden is one window's end, by the formula:
// limit · max(1/3, (1+Tolerance) · min(1, base/latency)) + √limit.
func TestLimitGolden(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name    string
		conf    AdaptiveLimit
		limit   float64
		samples []time.Duration
		refused int
		peak    int64
		want    float64
		base    time.Duration
		length  time.Duration
	}{
		{"as without load", AdaptiveLimit{}, 100, []time.Duration{10 * ms}, 0, 100, 1.25*100 + 10, 10 * ms, 100 * ms},
		{"a little faster", AdaptiveLimit{}, 100, []time.Duration{9500 * time.Microsecond}, 0, 100, 1.25*100 + 10, 10 * ms, 100 * ms},
		{"within the tolerance", AdaptiveLimit{}, 100, []time.Duration{12500 * time.Microsecond}, 0, 100, 100 + 10, 10 * ms, 100 * ms},
		{"twice as long", AdaptiveLimit{}, 100, []time.Duration{20 * ms}, 0, 100, 62.5 + 10, 10 * ms, 100 * ms},
		{"ten times as long", AdaptiveLimit{}, 100, []time.Duration{100 * ms}, 0, 100, 100/3. + 10, 10 * ms, 200 * ms},
		{"half as long", AdaptiveLimit{}, 100, []time.Duration{5 * ms}, 0, 100, 1.25*100 + 10, 7500 * time.Microsecond, 100 * ms},
		{"the median", AdaptiveLimit{}, 100, []time.Duration{20 * ms, ms, 900 * ms, 20 * ms, ms}, 0, 100, 62.5 + 10, 10 * ms, 100 * ms},
		{"more tolerance", AdaptiveLimit{Tolerance: 0.5}, 100, []time.Duration{10 * ms}, 0, 100, 1.5*100 + 10, 10 * ms, 100 * ms},
		{"half are refused", AdaptiveLimit{}, 100, []time.Duration{10 * ms, 10 * ms}, 2, 100, 50 + 10, 10 * ms, 100 * ms},
		{"a tenth of them, and slow", AdaptiveLimit{}, 100, []time.Duration{20 * ms, 20 * ms, 20 * ms, 20 * ms, 20 * ms, 20 * ms, 20 * ms, 20 * ms, 20 * ms}, 1, 100, 62.5 + 10, 10 * ms, 100 * ms},
		{"all are refused", AdaptiveLimit{}, 100, nil, 20, 100, 100/3. + 10, 10 * ms, 100 * ms},
		{"not all of it was used", AdaptiveLimit{}, 100, []time.Duration{10 * ms}, 0, 60, 120, 10 * ms, 100 * ms},
		{"less than half was used", AdaptiveLimit{}, 100, []time.Duration{10 * ms}, 0, 40, 100, 10 * ms, 100 * ms},
		{"little was used, and slow", AdaptiveLimit{}, 100, []time.Duration{20 * ms}, 0, 10, 62.5 + 10, 10 * ms, 100 * ms},
		{"the most", AdaptiveLimit{Max: 120}, 100, []time.Duration{10 * ms}, 0, 100, 120, 10 * ms, 100 * ms},
		{"the least", AdaptiveLimit{Min: 5}, 6, []time.Duration{50 * ms}, 0, 6, 5, 10 * ms, 100 * ms},
		{"slow when idle", AdaptiveLimit{}, 100, []time.Duration{30 * ms}, 0, 3, 1.25*100*2/3 + 10, 20 * ms, 100 * ms},
	} {
		l := limiterOf(c.conf)
		l.limit, l.peak, l.refused = c.limit, c.peak, c.refused
		for _, d := range c.samples {
			l.sampled(Outcome{Status: 200, Duration: d})
		}
		l.change(time.Now())
		if math.Abs(l.limit-c.want) > 1e-6 || l.baseLatency() != c.base || l.length != c.length {
			t.Errorf("%s: limit %.3f, base %v, next window %v; want %.3f, %v, %v", c.name, l.limit, l.baseLatency(), l.length, c.want, c.base, c.length)
		}
		if l.seen != 0 || l.refused != 0 || l.peak != 0 {
			t.Errorf("%s: the next window begins with %d samples, %d refused, %d in flight", c.name, l.seen, l.refused, l.peak)
		}
	}
}

// TestLimitKeepsTheNewest samples of a window.
func TestLimitKeepsTheNewest(t *testing.T) {
	l := limiterOf(AdaptiveLimit{})
	for i := range 3 * limitKept {
		d := time.Hour
		if i >= 2*limitKept {
			d = 7 * time.Millisecond
		}
		l.sampled(Outcome{Status: 200, Duration: d})
	}
	if got := time.Duration(l.median()); got != 7*time.Millisecond {
		t.Errorf("the median is %v, want 7ms", got)
	}
}

func TestLimitSamples(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		o       Outcome
		want    time.Duration
		refused int
	}{
		{Outcome{Status: 200, Duration: 50 * ms, Wait: 5 * ms}, 5 * ms, 0},
		{Outcome{Status: 200, Duration: 50 * ms}, 50 * ms, 0},
		{Outcome{Status: 500, Duration: 50 * ms}, 50 * ms, 0},
		{Outcome{Status: 503, Duration: 50 * ms, Wait: 5 * ms}, 0, 1},
		{Outcome{Result: Failed, Duration: 50 * ms}, 0, 1},
	} {
		l := limiterOf(AdaptiveLimit{})
		l.sampled(c.o)
		if got := l.samples[0]; got != c.want || l.refused != c.refused {
			t.Errorf("%+v: sample %v, %d refused, want %v, %d", c.o, got, l.refused, c.want, c.refused)
		}
	}
	for o, want := range map[Outcome]bool{
		{Status: 200, Duration: 1}: true, {Result: Failed, Duration: 1}: true, {Status: 200}: false, {Result: Canceled, Duration: 1}: false,
		{Result: Unreachable, Duration: 1}: false, {Status: http.StatusSwitchingProtocols, Duration: 1}: false,
	} {
		if got := o.tellsLatency(); got != want {
			t.Errorf("%+v tells of latency: %v", o, got)
		}
	}
}

// TestNextMeasurementGolden: it is early if what is known is far from right, and not
// due for an Interval after a window without load, which is as good as one.
func TestNextMeasurementGolden(t *testing.T) {
	now := time.Now()
	for _, c := range []struct {
		ratio       float64 // of the latency to the base
		peak        int64
		early       time.Duration
		least, most time.Duration // until the next
	}{
		{0.69, 100, time.Second, time.Second, time.Second},
		{0.71, 100, time.Second, 10 * time.Second, 10 * time.Second},
		{0.69, 100, 20 * time.Second, 10 * time.Second, 10 * time.Second},
		{2, 100, time.Second, 10 * time.Second, 10 * time.Second},
		{1, 3, time.Second, 27 * time.Second, 33 * time.Second},
		{1.4, 3, time.Second, 27 * time.Second, 33 * time.Second},
		{1.45, 3, time.Second, time.Second, time.Second},
		{1, 4, time.Second, 10 * time.Second, 10 * time.Second},
	} {
		l := limiterOf(AdaptiveLimit{})
		l.peak, l.next, l.early = c.peak, now.Add(10*time.Second), now.Add(c.early)
		l.learnBase(c.ratio*l.base, now)
		if got := l.next.Sub(now); got < c.least || got > c.most {
			t.Errorf("%+v: the next measurement is in %v", c, got)
		}
	}
	l := limiterOf(AdaptiveLimit{})
	l.base = 0
	l.learnBase(7e6, now)
	if l.base != 7e6 {
		t.Errorf("the first latency is learnt as %v", l.base)
	}
}

// TestMeasurementGolden: it ends with 50 samples, or with 10 after a second, or after
// 5 s with what there is, which is believed only if it is 10.
func TestMeasurementGolden(t *testing.T) {
	const ms = time.Millisecond
	start := time.Now()
	for _, c := range []struct {
		every time.Duration
		ends  int // with which sample
		base  time.Duration
	}{
		{ms, 50, 4 * ms}, {30 * ms, 34, 4 * ms}, {100 * ms, 10, 4 * ms}, {300 * ms, 10, 4 * ms}, {600 * ms, 9, 10 * ms}, {4 * time.Second, 2, 10 * ms},
	} {
		l := limiterOf(AdaptiveLimit{})
		l.measured = start
		// What began before the measurement does not count.
		if _, over := l.measure(Outcome{Status: 200, Duration: time.Second}, start.Add(ms)); over || l.seen != 0 {
			t.Fatalf("%+v: over %v, %d samples", c, over, l.seen)
		}
		n := 0
		for over := false; !over && n < 100; {
			n++
			now := start.Add(time.Duration(n) * c.every)
			var limit int64
			limit, over = l.measure(Outcome{Status: 200, Duration: min(4*ms, time.Duration(n)*c.every)}, now)
			if !over {
				continue
			}
			next, early := l.next.Sub(now), l.early.Sub(now)
			if limit != 100 || !l.measured.IsZero() || next < 27*time.Second || next > 33*time.Second || early != 3*time.Second || l.seen != 0 {
				t.Errorf("%+v: limit %d, measured %v, next in %v, at the earliest in %v, %d samples", c, limit, l.measured, next, early, l.seen)
			}
		}
		if n != c.ends || l.baseLatency() != c.base {
			t.Errorf("%+v: it ends with sample %d and a base of %v", c, n, l.baseLatency())
		}
	}
}

// TestWindowGolden: a window has 20 samples and a tenth of a second at least.
func TestWindowGolden(t *testing.T) {
	for _, c := range []struct {
		samples  int
		began    time.Duration // ago
		inFlight int64
		want     string // limit, and whether it is measured
	}{
		{limitLeast - 1, time.Second, 50, "20 false"},
		{limitLeast, 50 * time.Millisecond, 50, "20 false"},
		{limitLeast, time.Second, 50, "3 true"},
		{limitLeast, time.Second, 3, "20 false"}, // no load: 20 stays, and no measurement
	} {
		p := poolOf(t, PoolConfig{AdaptiveLimit: new(AdaptiveLimit)}, 1)
		b := p.backends[0]
		b.limiter.began = time.Now().Add(-c.began)
		b.limiter.length = 100 * time.Millisecond
		if c.began < limitWindow {
			b.limiter.began = time.Now().Add(time.Minute) // however slow this machine is
		}
		for range c.samples {
			p.adapt(b, Outcome{Status: 200, Duration: time.Millisecond}, c.inFlight)
			c.inFlight = min(c.inFlight, 1) // the most counts, not the last
		}
		if got := fmt.Sprint(b.limit.Load(), !b.limiter.measured.IsZero()); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

func TestAdaptiveLimitBounds(t *testing.T) {
	for _, conf := range []AdaptiveLimit{{Tolerance: 10}, {Min: limitMax, Max: limitMax, Start: limitMax}, {Max: 1}, {Min: 20}} {
		if err := conf.validate(0); err != nil {
			t.Errorf("%+v: %v", conf, err)
		}
	}
	for _, conf := range []AdaptiveLimit{{Tolerance: 10.1}, {Tolerance: math.NaN()}, {Max: limitMax + 1}, {Min: 2, Max: 1}, {Max: 10, Start: 11}} {
		if conf.validate(0) == nil {
			t.Errorf("%+v was taken", conf)
		}
	}
}
