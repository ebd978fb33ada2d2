package dbrouter

import (
	"fmt"
	"testing"
	"time"

	"github.com/palisade-go/palisade/dbrouter/mysqltest"
	"github.com/palisade-go/palisade/dbrouter/mysqltest/mariadb"
)

func TestHistory(t *testing.T) {
	var h history
	begin := time.Now()
	at := func(ms int) time.Time { return begin.Add(time.Duration(ms) * time.Millisecond) }
	maria := func(n int) position { return position{mariaDB, fmt.Sprintf("0-1-%d", n)} }
	one, other := new(node), new(node)
	if lag, known := h.lag(maria(1), at(0)); known || lag != 0 {
		t.Errorf("without heartbeats: %v, %v", lag, known)
	}
	const grain = 10 * time.Millisecond
	h.add(one, sample{maria(1), at(0)}, grain)
	h.add(one, sample{maria(2), at(100)}, grain)
	h.add(one, sample{maria(2), at(200)}, grain) // nothing was written
	h.add(one, sample{maria(9), at(150)}, grain) // answers that were overtaken
	h.add(one, sample{maria(2), at(150)}, grain)
	if len(h.samples) != 2 {
		t.Errorf("%d samples, want 2: nothing was written meanwhile", len(h.samples))
	}
	h.add(one, sample{maria(3), at(300)}, grain)
	h.add(one, sample{maria(4), at(305)}, grain)
	h.add(one, sample{maria(5), at(308)}, grain) // takes the place of 4
	for _, c := range []struct {
		have  position
		at    int
		lag   int
		known bool
	}{
		{maria(5), 310, 2, true},
		{maria(4), 310, 10, true},
		{maria(3), 310, 10, true},
		{maria(2), 310, 110, true},
		{maria(1), 310, 310, true},
		{maria(0), 310, 310, false},
		{maria(7), 300, 0, true},
		{position{mySQL, ""}, 310, 310, false},
		{position{mariaDB, "nonsense"}, 310, 310, false},
	} {
		lag, known := h.lag(c.have, at(c.at))
		if lag != time.Duration(c.lag)*time.Millisecond || known != c.known {
			t.Errorf("%+v at %d: %v, %v, want %d ms, %v", c.have, c.at, lag, known, c.lag, c.known)
		}
	}
	for i := range 10 * maxSamples {
		h.add(one, sample{maria(10 + i), at(1000 + 20*i)}, grain)
		if n := len(h.samples); i >= maxSamples && n != maxSamples {
			t.Fatalf("%d samples after %d heartbeats more", n, i)
		}
	}
	if len(h.samples) != maxSamples || h.samples[maxSamples-1].text != maria(9+10*maxSamples).text || h.samples[0].text != maria(10+9*maxSamples).text {
		t.Errorf("%d samples, the last %v", len(h.samples), h.samples[len(h.samples)-1])
	}
	h.add(other, sample{maria(1), at(0)}, grain)
	if len(h.samples) != 1 {
		t.Errorf("%d samples of another primary", len(h.samples))
	}
}

func TestDistance(t *testing.T) {
	const a, b = "3e11fa47-71ca-11e1-9e33-c80aa9429562", "4e11fa47-71ca-11e1-9e33-c80aa9429562"
	for _, c := range []struct {
		d          dialect
		have, want string
		n          uint64
	}{
		{mariaDB, "0-1-7", "0-1-7", 0},
		{mariaDB, "0-1-5", "0-1-7", 2},
		{mariaDB, "0-2-9", "0-1-7", 0},
		{mariaDB, "0-1-5", "0-1-7,1-1-3", 5},
		{mariaDB, "", "0-1-7", 7},
		{mySQL, a + ":1-5", a + ":1-9," + b + ":1-2", 6},
		{mySQL, a + ":1-5", "nonsense", 0},
		{mySQL, "nonsense", a + ":1-9", 0},
	} {
		if n := distance(c.d, c.have, c.want); n != c.n {
			t.Errorf("from %q to %q: %d, want %d", c.have, c.want, n, c.n)
		}
	}
}

// TestLagBelowASecond: a replica that is 600 ms behind says itself that it is 0 s
// behind.
func TestLagBelowASecond(t *testing.T) {
	p := newPair(t)
	conf := p.config()
	conf.MaxLag, conf.Consistency = 200*time.Millisecond, Eventual
	conf.OnStateChange = nil
	r, rec := open(t, conf)
	upReplicas(t, r, 1)
	p.replica.SetLag(600 * time.Millisecond)
	lags := func() bool {
		s := r.Status()[1]
		return s.State == Lagging && s.LagKnown && s.Lag > conf.MaxLag && s.Behind > 0
	}
	until(t, "it lags, and is not read from", func() bool {
		mustExec(t, r.DB(), update)
		if !lags() {
			return false
		}
		one[int](t, r.DB(), query)
		role := rec.last(t).Role
		if !lags() {
			return false // it has caught up meanwhile; without a write it does not lag again
		}
		if role != Primary {
			t.Errorf("a read went to it: %+v", rec.last(t))
		}
		return true
	})
	p.replica.SetLag(0)
	upReplicas(t, r, 1)
	until(t, "it is not behind", func() bool { s := r.Status()[1]; return s.LagKnown && s.Behind == 0 && s.Lag <= conf.MaxLag })
}

// TestLagOfASilentPrimary: a primary that does not answer holds up the looks at
// its replicas for a moment only, and does not make them lag.
func TestLagOfASilentPrimary(t *testing.T) {
	p := newPair(t)
	conf := p.config()
	conf.OnStateChange = nil
	r, _ := open(t, conf)
	upReplicas(t, r, 1)
	mustExec(t, r.DB(), update)
	p.primary.Inject(mysqltest.Fault{Match: match(mariaDB.position()), Times: -1, Delay: time.Minute})
	n := len(p.replica.Queries())
	until(t, "the replica is looked at", func() bool { return len(p.replica.Queries()) > n+30 })
	if s := r.Status()[1]; s.State != Up || !s.LagKnown {
		t.Errorf("%+v", s)
	}
}

// lagOnTheWay: what is late on its way to the replicas, those cannot know of.
func lagOnTheWay(t *testing.T, c *mariadb.Cluster) {
	r, _ := open(t, Config{Nodes: nodes(c), Consistency: Eventual, MaxLag: 300 * time.Millisecond, CheckInterval: 50 * time.Millisecond})
	until(t, "both replicas lag", func() bool {
		mustExec(t, r.DB(), "INSERT INTO pairs (v) VALUES (0)")
		s := r.Status()
		return s[1].State == Lagging && s[2].State == Lagging && s[1].Behind > 0 && s[1].Lag > 300*time.Millisecond
	})
}
