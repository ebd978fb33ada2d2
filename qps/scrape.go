package qps

import (
	"io"
	"sync"
	"time"
)

const (
	// mostText is how much text of routes is kept from one scrape to the next.
	mostText = 16 << 20
	// A scrape makes way when it has looked at so many routes, of which one that
	// has to be read anew counts for eight more, and when it has written so many
	// bytes: after 300 µs or so. A pause costs some 30 µs itself.
	lookAtOnce  = 3072
	readCost    = 8
	writeAtOnce = 12 * flushBytes
	// pause is how long it makes way for. It is a sleep, because a processor that
	// is idle looks for what has come over the network, and one that goes on after
	// runtime.Gosched does not. How long the scrape takes matters to nobody.
	pause = 50 * time.Microsecond
)

// scraper keeps what a scrape has written of each route for the next one, so that
// a route without requests since costs a copy.
type scraper struct {
	tails   tails
	spare   sync.Pool // *exposition
	mu      sync.Mutex
	writing int // scrapes that are using lines; these must stay as they are
	kept    int // bytes in the lines of all series
}

// marks tell whether the lines of a series have changed: whatever else they have
// changes with them.
type marks struct {
	ended, late uint64
	inFlight    int64
	out         uint64
	peak        uint64
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
		e = &exposition{gently: true, buf: make([]byte, 0, 2*flushBytes), tails: &m.scraper.tails}
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
	m.scraper.mu.Lock()
	defer m.scraper.mu.Unlock()
	var f figures
	looked := 0
	for _, r := range m.routes.all() {
		for _, method := range sortedMethods {
			s := r.methods[method].Load()
			if s == nil {
				continue
			}
			k := s.marks(m.now)
			looked++
			if s.lines == nil || s.marked != k {
				looked += readCost
				s.read(&f, k)
				m.scraper.render(s, &f, m.server)
				s.marked = k
			}
			if len(s.lines.text) > 0 {
				e.shown = append(e.shown, shown{s.lines, s.exemplars.buckets.Load()})
			}
			if m.scraper.kept > mostText {
				m.scraper.drop(s)
			}
			if looked >= lookAtOnce {
				looked = 0
				time.Sleep(pause)
			}
		}
	}
	m.scraper.writing++
}

// render makes the lines of a series anew. A route "other" that no request has
// used has none.
func (c *scraper) render(s *series, f *figures, server string) {
	if s.labels == "" {
		s.labels = labels("server", server, "route", s.route, "method", methodNames[s.method])
	}
	f.labels = s.labels
	size := 0
	switch {
	case s.lines == nil:
		s.lines = new(lines)
	case c.writing > 0:
		size = cap(s.lines.text)
		s.lines = &lines{text: make([]byte, 0, size)}
	default:
		size = cap(s.lines.text)
	}
	if s.route == other && f.upTo[len(bounds)] == 0 && f.inFlight == 0 {
		*s.lines = lines{}
	} else {
		s.lines.render(f, &c.tails)
	}
	c.kept += cap(s.lines.text) - size
}

// drop forgets the lines of a series, which whoever is writing them still has.
func (c *scraper) drop(s *series) {
	c.kept -= cap(s.lines.text)
	s.lines = nil
}

// marks reads what tells whether anything has changed. It comes before read: a
// request that ends in between has other marks the next time.
func (s *series) marks(now func() int64) marks {
	s.mu.Lock()
	s.drainRequests()
	second := uint32(now() / int64(time.Second))
	k := marks{ended: s.requests.events(), late: s.requests.late.Load(), peak: s.requests.highest(second).Requests}
	k.inFlight, k.out = s.flow()
	s.mu.Unlock()
	return k
}

// read adds the shards up.
func (s *series) read(f *figures, k marks) {
	*f = figures{inFlight: k.inFlight, out: k.out, peak: k.peak, late: k.late}
	for sh := range s.shards.all() {
		f.counts[class2xx] += f.add(&sh.recorder)
		if r := sh.others.Load(); r != nil {
			f.add(r)
		}
		for c := range f.counts {
			f.counts[c] += sh.classes[c].Load()
		}
		f.in += sh.bytesIn.Load()
	}
	var n uint64
	for i := range f.upTo {
		n += f.upTo[i]
		f.upTo[i] = n
	}
}
