package qps

import (
	"sync"
	"sync/atomic"
	"time"
)

// class is how a request ended.
type class uint8

const (
	class1xx class = iota
	class2xx
	class3xx
	class4xx
	class5xx
	classAborted
	classPanic
	classCount
)

var classNames = [classCount]string{"1xx", "2xx", "3xx", "4xx", "5xx", "aborted", "panic"}

// classOf returns the class of a final status. Three-digit codes beyond 599,
// which no standard defines, are taken for failures.
func classOf(status int) class {
	switch {
	case status == statusClientGone:
		return classAborted
	case status < 200:
		return class1xx
	case status >= 500:
		return class5xx
	}
	return class(status/100 - 1)
}

// failed says whether the server is to blame.
func (c class) failed() bool { return c == class5xx || c == classPanic }

// series is what is recorded of one method of one route, or of one upstream.
// Each processor counts in a shard of its own. Of the events per second a shard
// holds those of one second only; the first event of another second moves them
// to the logs that all shards share. Its zero value works.
type series struct {
	shards     shards[shard]
	mu         sync.Mutex // guards the seconds of shards and of the logs, not the counts; and that flows are emptied
	requests   secondLog
	errors     secondLog
	objectives []*objective // that its requests count for
	exemplars  exemplars
	route      string // its name in the table; empty: not of a route
	method     method
	kept       *kept // by the scraper, whose mutex guards it; nil: nothing yet
}

// shard keeps the durations of requests that ended in 2xx apart from those of the
// others: as most do, counting these once, by their duration, will do.
//
// What nearly every request changes comes together, behind the pages, in one line
// of the cache.
type shard struct {
	recorder                               // of 2xx
	others        atomic.Pointer[recorder] // nil: none yet
	requests      atomic.Uint64            // a second and its count, packed
	flow          flow
	changed       changes // of the recorder
	othersChanged changes
	errors        atomic.Uint64
	classes       [classCount]atomic.Uint64 // those of 2xx only that an earlier process has counted
	bytesIn       atomic.Uint64
	_             [4*lineBytes - 8*(pageCount+3+1+1+2+2+1+int(classCount)+1)]byte
}

// observe records an event that ended at the given time, after so many bytes had
// come in.
// Requests are counted before errors, and read after them, so that no reader sees
// more errors than requests. That something has changed is noted last: whoever
// finds the note finds everything.
func (s *series) observe(p place, endNanos int64, elapsed time.Duration, c class, in uint64) {
	second := uint32(endNanos / int64(time.Second))
	sh := s.shards.at(p)
	if in != 0 {
		sh.bytesIn.Add(in)
	}
	changed, octave := &sh.changed, 0
	if c == class2xx {
		octave = sh.record(uint64(max(elapsed, 0)))
	} else {
		changed, octave = &sh.othersChanged, sh.otherThan2xx().record(uint64(max(elapsed, 0)))
		sh.classes[c].Add(1)
	}
	s.count(p, &sh.requests, &s.requests, second)
	if c.failed() {
		s.count(p, &sh.errors, &s.errors, second)
	}
	for _, o := range s.objectives {
		o.observe(p, endNanos, elapsed, c)
	}
	changed.note(octave)
}

// otherThan2xx is the recorder of requests that did not end in 2xx.
func (sh *shard) otherThan2xx() *recorder {
	r := sh.others.Load()
	if r == nil {
		sh.others.CompareAndSwap(nil, new(recorder))
		r = sh.others.Load()
	}
	return r
}

// count counts an event in the cell of a shard or in the log behind it. It takes
// the mutex for the first event of a second in each shard, and waits for it only
// if the log has no count of that second yet either.
func (s *series) count(p place, cell *atomic.Uint64, log *secondLog, second uint32) {
	for {
		old := cell.Load()
		tag, _ := unpack(old)
		switch {
		case tag == second:
			if cell.CompareAndSwap(old, old+1) {
				return
			}
			p.token.move()
		case tag < second && s.mu.TryLock():
			s.advance(cell, log, second)
			s.mu.Unlock()
		case log.tryAdd(second):
			return
		case tag > second:
			s.mu.Lock()
			log.add(second, 1)
			s.mu.Unlock()
			return
		default:
			s.mu.Lock()
			s.advance(cell, log, second)
			s.mu.Unlock()
		}
	}
}

// advance gives the cell to a second, under the mutex. All shards are emptied
// first: one that is idle must not keep a count until the log has forgotten its
// second. Then the log begins the second, so that other shards can count there
// while they cannot have the mutex.
func (s *series) advance(cell *atomic.Uint64, log *secondLog, second uint32) {
	s.drainErrors()
	s.drainRequests()
	log.add(second, 0)
	for {
		old := cell.Load()
		tag, count := unpack(old)
		switch {
		case tag >= second:
			return
		case count != 0: // counted since
			drain(cell, log)
		case cell.CompareAndSwap(old, pack(second, 0)):
			return
		}
	}
}

// drain moves the count of a cell to the log, under the mutex.
func drain(cell *atomic.Uint64, log *secondLog) {
	for {
		old := cell.Load()
		tag, count := unpack(old)
		if count == 0 {
			return
		}
		if cell.CompareAndSwap(old, pack(tag, 0)) {
			log.add(tag, count)
			return
		}
	}
}

func (s *series) drainErrors() {
	for sh := range s.shards.all() {
		drain(&sh.errors, &s.errors)
	}
}

func (s *series) drainRequests() {
	for sh := range s.shards.all() {
		drain(&sh.requests, &s.requests)
	}
}

// window reads the last minutes. The time is taken under the mutex: nobody can
// be ahead of it then, so no second of the window can lose its cell.
func (s *series) window(now func() int64) Window {
	s.mu.Lock()
	defer s.mu.Unlock()
	second := uint32(now() / int64(time.Second))
	s.drainErrors()
	errs := s.errors.before(second)
	s.drainRequests()
	return Window{
		Second: int64(second), Requests: s.requests.before(second), Errors: errs,
		Current: s.requests.at(second), Peak: s.requests.highest(second), Late: s.requests.late.Load(),
	}
}

// peak is window without its seconds, which is most of the work.
func (s *series) peak(now func() int64) Window {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drainRequests()
	second := uint32(now() / int64(time.Second))
	return Window{Second: int64(second), Peak: s.requests.highest(second), Late: s.requests.late.Load()}
}

func (s *series) enter(p place) { s.shards.at(p).flow.begin() }

// leave must have the place of enter, or a reader between the two would find
// less than nothing in flight.
func (s *series) leave(p place, out uint64) { s.end(p, 1, out) }

// sent counts bytes of a request that is in flight elsewhere.
func (s *series) sent(p place, out uint64) {
	if out > 0 {
		s.end(p, 0, out)
	}
}

func (s *series) end(p place, requests, out uint64) {
	if f := &s.shards.at(p).flow; !f.end(requests, out) {
		s.mu.Lock()
		f.empty()
		s.mu.Unlock()
	}
}

// flow is how many requests are in flight, and the bytes that went out, under the
// mutex.
func (s *series) flow() (requests int64, out uint64) {
	for sh := range s.shards.all() {
		n, sent := sh.flow.read()
		requests, out = requests+n, out+sent
	}
	return requests, out
}

// durations returns those of all requests, and how many of them ended in 2xx.
func (s *series) durations() (h Histogram, ok uint64) {
	parts := make([]*recorder, 0, 16)
	for sh := range s.shards.all() {
		parts = append(parts, &sh.recorder)
	}
	first := len(parts)
	for sh := range s.shards.all() {
		if r := sh.others.Load(); r != nil {
			parts = append(parts, r)
		}
	}
	return gather(parts, first)
}

// route has a series for each method that was seen.
type route struct {
	name       string
	methods    [len(methodNames)]atomic.Pointer[series]
	objectives []*objective
}

func (r *route) series(m method) *series {
	s := r.methods[m].Load()
	if s == nil {
		r.methods[m].CompareAndSwap(nil, &series{objectives: r.objectives, route: r.name, method: m})
		s = r.methods[m].Load()
	}
	return s
}
