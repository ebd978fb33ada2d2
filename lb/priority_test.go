package lb

import (
	"fmt"
	"math"
	"strings"
	"testing"
)

// tiered makes a pool of backends whose states are the letters h, u, d, e and ?
// (healthy, unhealthy, draining, ejected, unknown), in one field of s for each
// priority. A capital letter is in the zone "z".
func tiered(t *testing.T, conf PoolConfig, s string) *Pool {
	t.Helper()
	var letters []byte
	for priority, field := range strings.Fields(s) {
		for i := range len(field) {
			zone := ""
			if field[i] < 'a' && field[i] != '?' {
				zone = "z"
			}
			conf.Backends = append(conf.Backends, BackendConfig{
				ID: fmt.Sprintf("%d%c%d", priority, field[i], i), URL: "http://192.0.2.1", Priority: priority, Zone: zone,
			})
			letters = append(letters, field[i]|0x20)
		}
	}
	p := poolOf(t, conf, 0)
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, letter := range letters {
		b := p.backends[i]
		switch letter {
		case 'u':
			b.health.Store(int32(Unhealthy))
		case 'd':
			b.draining.Store(true)
		case 'e':
			b.conduct.ejected.Store(true)
		case '?':
			b.health.Store(int32(Unknown))
		}
	}
	p.publish()
	return p
}

// TestShares says what share of the requests goes where.
func TestShares(t *testing.T) {
	for _, c := range []struct {
		states string
		panics float64
		zone   string
		want   map[string]float64 // by the first two letters of the ID, to a hundredth
	}{
		{states: "hh hh", want: map[string]float64{"0h": 1}},
		{states: "hhhu hh", want: map[string]float64{"0h": 1}},          // 75 % is enough
		{states: "hu hh", want: map[string]float64{"0h": .7, "1h": .3}}, // 1.4 × 50 %
		{states: "he hh", want: map[string]float64{"0h": .7, "1h": .3}},
		{states: "hd hh", want: map[string]float64{"0h": 1}}, // a drain is meant
		{states: "uu hh", want: map[string]float64{"1h": 1}},
		{states: "uu hu hh", want: map[string]float64{"1h": .7, "2h": .3}},
		{states: "huuu huuu", want: map[string]float64{"0h": .5, "1h": .5}}, // .35 each
		{states: "uu uu", want: map[string]float64{"0u": 1}},
		{states: "uu ?u", want: map[string]float64{"1?": 1}},
		{states: "uu eu", want: map[string]float64{"1e": 1}},
		{states: "huuu", want: map[string]float64{"0h": 1}},
		{states: "huuu", panics: .5, want: map[string]float64{"0h": .25, "0u": .75}},
		{states: "hhuu", panics: .5, want: map[string]float64{"0h": 1}},
		{states: "huu", panics: .9, want: map[string]float64{"0h": .33, "0u": .67}},
		{states: "hue", panics: .5, want: map[string]float64{"0h": .33, "0u": .33, "0e": .33}},
		{states: "hued", panics: .5, want: map[string]float64{"0h": .33, "0u": .33, "0e": .33}},
		{states: "huuu hh", panics: .5, want: map[string]float64{"0h": .35, "1h": .65}}, // others can take it
		{states: "hhhu", panics: .9, want: map[string]float64{"0h": .75, "0u": .25}},    // nobody else can take it
		{states: "h?uu", panics: .5, want: map[string]float64{"0h": .25, "0?": .25, "0u": .5}},
		{states: "HHhh", zone: "z", want: map[string]float64{"0H": 1}},
		{states: "hhHH", zone: "z", want: map[string]float64{"0H": 1}},
		{states: "huHU hH", zone: "z", want: map[string]float64{"0H": .7, "0h": .3}},
		{states: "HUhh", zone: "z", want: map[string]float64{"0H": .7, "0h": .3}},
		{states: "UUhh HH", zone: "z", want: map[string]float64{"0h": 1}}, // priority before zone
		{states: "HHhh", want: map[string]float64{"0H": .5, "0h": .5}},    // no zone of its own
	} {
		p := tiered(t, PoolConfig{Strategy: RoundRobin{}, PanicThreshold: c.panics, Zone: c.zone}, c.states)
		const n = 20000
		got := make(map[string]float64)
		for range n {
			got[pickID(t, p, PickInfo{})[:2]] += 1. / n
		}
		for id := range got {
			if _, ok := c.want[id]; !ok {
				t.Errorf("%+v: got %v", c, got)
			}
		}
		for id, share := range c.want {
			if math.Abs(got[id]-share) > .02 {
				t.Errorf("%+v: %s gets %.3f", c, id, got[id])
			}
		}
	}
}

// TestKeptPickersGetTheirNewShare: what the backends of a level get changes with the
// levels before it, though they themselves do not.
func TestKeptPickersGetTheirNewShare(t *testing.T) {
	p := tiered(t, PoolConfig{Strategy: RoundRobin{}}, "hu hu h")
	p.mu.Lock()
	p.backends[0].health.Store(int32(Unhealthy))
	p.publish()
	p.mu.Unlock()
	const n = 20_000
	last := 0
	for range n {
		if pickID(t, p, PickInfo{}) == "2h0" {
			last++
		}
	}
	if share := float64(last) / n; math.Abs(share-.3) > .02 {
		t.Errorf("the last level gets %.3f, want what is missing of the second's, .3", share)
	}
}

// TestLastResort: while nobody is healthy, those that are not known yet come
// first, then those that are ejected, and the unhealthy ones last, whatever their
// priority or zone; of the same state, a lower priority and the own zone come
// first.
func TestLastResort(t *testing.T) {
	for _, c := range []struct{ states, want string }{
		{"ue?", "0?"}, {"ue", "0e"}, {"eu", "0e"}, {"u e", "1e"}, {"e u", "0e"}, {"u e ?", "2?"}, {"e ?", "1?"}, {"u u", "0u"}, {"ee e", "0e"},
		{"du", "0u"}, {"d e", "1e"}, {"dd", ErrNoBackend.Error()[:2]}, {"uU", "0U"}, {"uE", "0E"}, {"eU", "0e"}, {"Eu e", "0E"},
	} {
		p := tiered(t, PoolConfig{Strategy: RoundRobin{}, Zone: "z"}, c.states)
		for range 10 {
			if got := pickID(t, p, PickInfo{}); got[:2] != c.want {
				t.Errorf("%s: got %s, want %s", c.states, got, c.want)
			}
		}
		p.Close()
	}
}

// A request that has been to all of its level goes to the next, even if that has
// no share, so that a retry finds a backup.
func TestRetryGoesToTheBackup(t *testing.T) {
	p := tiered(t, PoolConfig{Strategy: RoundRobin{}}, "hh h u")
	tried := p.backends[:2:2]
	if got := pickID(t, p, PickInfo{Tried: tried}); got != "1h0" {
		t.Errorf("got %s", got)
	}
	if got := pickID(t, p, PickInfo{Tried: p.backends[:3]}); got != ErrNoBackend.Error() {
		t.Errorf("got %s, though only an unhealthy one is left", got)
	}
}

// counting counts the pickers it builds.
type counting struct {
	Strategy
	built *int
}

func (c counting) Build(backends []*Backend) Picker { *c.built++; return c.Strategy.Build(backends) }

// What happens to one tier is nothing to the pickers of the others.
func TestPickersAreKept(t *testing.T) {
	built := 0
	p := tiered(t, PoolConfig{Strategy: counting{RoundRobin{}, &built}}, "hh hh")
	before := built
	p.Drain("1h0")
	if built != before+1 {
		t.Errorf("%d pickers were built for a drain in the second tier, want 1", built-before)
	}
	p.Resume("1h0")
	before = built
	p.publish()
	if built != before {
		t.Errorf("%d pickers were built though nothing had changed", built-before)
	}
	p.Set([]BackendConfig{{ID: "0h0", URL: "http://192.0.2.1", Weight: 2}, {ID: "0h1", URL: "http://192.0.2.1"}})
	if built != before+1 {
		t.Errorf("%d pickers were built for a weight and a tier that went, want 1", built-before)
	}
}

func TestPickAllocatesNothing(t *testing.T) {
	for _, states := range []string{"hhh", "hu hh"} {
		p := tiered(t, PoolConfig{Outlier: new(OutlierDetection)}, states)
		if n := testing.AllocsPerRun(200, func() {
			picked, err := p.Pick(PickInfo{})
			if err != nil {
				t.Fatal(err)
			}
			picked.Done(Outcome{Status: 200})
		}); n != 0 {
			t.Errorf("%s: %v allocations", states, n)
		}
	}
}
