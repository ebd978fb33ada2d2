package qps

import (
	"io"
	"sync"
	"time"
)

const (
	// mostText is how much text of routes is kept from one scrape to the next.
	mostText = 16 << 20
	// A scrape makes way when it has looked at routes for so long, which it sees after
	// so many: 1,000 take less. Pauses that come sooner, or between writes, draw it out
	// so that more requests feel it, and cost some 30 µs each.
	stint      = 5 * time.Millisecond
	lookAtOnce = 16
	// pause is how long it makes way for. It is a sleep, because a processor that
	// is idle looks for what has come over the network, and one that goes on after
	// runtime.Gosched does not. How long the scrape takes matters to nobody.
	pause = 50 * time.Microsecond
)

// scraper keeps what a scrape has found and written of each route for the next one:
// a route without requests since costs a copy, and the others little more.
type scraper struct {
	tails   tails
	spare   sync.Pool // *exposition
	mu      sync.Mutex
	writing int    // scrapes that are using lines; these must stay as they are
	kept    int    // bytes in the lines of all series
	ended   uint32 // the second in which the last scrape had looked at all routes
}

// kept is what the scraper keeps of a route.
type kept struct {
	figures figures
	lines   *lines // nil: not kept
	// looked is the second before which its requests are part of the peak; if
	// unsettled, some have come later.
	looked    uint32
	unsettled bool
}

// shown is the lines of a route during a scrape.
type shown struct {
	lines     *lines
	exemplars *exemplarBuckets
}

// scrape writes the metrics of the Meter.
func (m *Meter) scrape(w io.Writer, open bool) error {
	e, ok := m.scraper.spare.Get().(*exposition)
	if !ok {
		e = &exposition{buf: make([]byte, 0, 2*flushBytes), tails: &m.scraper.tails}
	}
	e.w, e.err, e.open, e.snaps = w, nil, open, []Snapshot{m.apart((*series).peak)}
	m.show(e)
	defer func() {
		m.scraper.mu.Lock()
		m.scraper.writing--
		m.scraper.mu.Unlock()
		clear(e.shown)
		e.shown, e.buf, e.w, e.snaps = e.shown[:0], e.buf[:0], nil, nil
		m.scraper.spare.Put(e)
	}()
	return e.write()
}

// show brings the lines of all routes up to date.
func (m *Meter) show(e *exposition) {
	c := &m.scraper
	c.mu.Lock()
	defer c.mu.Unlock()
	begin, seen := m.now(), 0
	for _, r := range m.routes.all() {
		for _, method := range sortedMethods {
			s := r.methods[method].Load()
			if s == nil {
				continue
			}
			l := c.look(s, m.server, uint32(begin/int64(time.Second)))
			if len(l.text) > 0 {
				e.shown = append(e.shown, shown{l, s.exemplars.buckets.Load()})
			}
			if c.kept > mostText {
				c.kept -= cap(l.text)
				s.kept.lines = nil
			}
			if seen++; seen%lookAtOnce == 0 && m.now()-begin > int64(stint) {
				time.Sleep(pause)
				begin = m.now()
			}
		}
	}
	c.ended = uint32(m.now() / int64(time.Second))
	c.writing++
}

// look brings what is kept of a route up to date, and returns its lines. The second
// is one since the beginning of the scrape.
func (c *scraper) look(s *series, server string, second uint32) *lines {
	k := s.kept
	if k == nil {
		k = &kept{figures: figures{labels: labels("server", server, "route", s.route, "method", methodNames[s.method])}}
		s.kept = k
	}
	old := k.figures
	switch {
	case s.changed(&old):
		k.unsettled = true
		k.figures.update(s)
	case k.unsettled && second > k.looked:
		// Its last requests came until the last scrape had ended, at the latest.
		k.unsettled = second <= c.ended
	case k.lines != nil:
		return k.lines
	}
	k.looked = second
	k.figures.settle(s, second)
	if k.lines == nil || k.figures != old {
		c.write(s, &old)
	}
	return k.lines
}

// write brings the lines of a route up to date. A route "other" that no request has
// used has none.
func (c *scraper) write(s *series, old *figures) {
	k := s.kept
	size := 0
	if k.lines != nil {
		size = cap(k.lines.text)
	}
	switch now := &k.figures; {
	case s.route == other && now.upTo[len(bounds)] == 0 && now.inFlight == 0:
		k.lines = new(lines)
	case size == 0:
		k.lines = new(lines)
		k.lines.render(now, &c.tails)
	default:
		if c.writing > 0 {
			k.lines = k.lines.clone()
		}
		k.lines.update(old, now)
	}
	c.kept += cap(k.lines.text) - size
}

// changed says whether anything has happened on a route of which these figures are.
func (s *series) changed(f *figures) bool {
	var inFlight int64
	var out uint64
	for sh := range s.shards.all() {
		if sh.changed.any() || sh.othersChanged.any() {
			return true
		}
		n, sent := sh.flow.read()
		inFlight, out = inFlight+n, out+sent
	}
	return inFlight != f.inFlight || out != f.out
}

// settle reads what needs the mutex.
func (f *figures) settle(s *series, second uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drainRequests()
	f.peak, f.late = s.requests.highest(second).Requests, s.requests.late.Load()
	f.inFlight, f.out = s.flow()
}
