package qps

import (
	"sync/atomic"
	"time"
)

const (
	// windowSeconds is the longest window of whole seconds.
	windowSeconds = 300
	// logSeconds is how many seconds a log holds, a power of two beyond the
	// window: what is recorded up to that long after it ended has its place.
	logSeconds = 512
	// logPage is how many of them are allocated at a time, so that a route that
	// is seldom used stays small.
	logPage = 64
)

// secondLog counts events per second. A cell packs the second that it counts,
// as Unix time, above the count, so that one compare-and-swap both checks the
// second and counts. An event carries its own time: however late it is recorded,
// it lands in its second, or in late if a newer second has taken the cell.
//
// The sum of all cells, retired and late is the number of events.
type secondLog struct {
	pages   [logSeconds / logPage]atomic.Pointer[[logPage]atomic.Uint64]
	late    atomic.Uint64
	retired uint64 // counts of seconds whose cell was taken over
	peak    Peak   // highest of these, and of those before looked
	// looked is the second up to which peak has been looked for; again says that
	// one before it has been counted in since, without the mutex.
	looked atomic.Uint32
	again  atomic.Bool
	// A cell goes to another second, and what is not atomic changes, only under
	// the mutex of the series.
}

func pack(second, count uint32) uint64 { return uint64(second)<<32 | uint64(count) }

func unpack(cell uint64) (second, count uint32) { return uint32(cell >> 32), uint32(cell) }

func (l *secondLog) cell(second uint32) *atomic.Uint64 {
	p := l.pages[second%logSeconds/logPage].Load()
	if p == nil {
		return nil
	}
	return &p[second%logPage]
}

// tryAdd counts an event without the mutex, and reports false if it cannot.
func (l *secondLog) tryAdd(second uint32) bool {
	cell := l.cell(second)
	if cell == nil {
		return false
	}
	for {
		old := cell.Load()
		switch tag, _ := unpack(old); {
		case tag > second:
			l.late.Add(1)
			return true
		case tag < second:
			return false
		}
		if cell.CompareAndSwap(old, old+1) {
			if second < l.looked.Load() {
				l.again.Store(true)
			}
			return true
		}
	}
}

// add counts n events of a second, under the mutex.
func (l *secondLog) add(second, n uint32) {
	cell := l.cell(second)
	if cell == nil {
		l.pages[second%logSeconds/logPage].Store(new([logPage]atomic.Uint64))
		cell = l.cell(second)
	}
	for {
		old := cell.Load()
		tag, count := unpack(old)
		switch {
		case tag > second:
			l.late.Add(uint64(n))
			return
		case tag == second:
			if cell.CompareAndSwap(old, old+uint64(n)) {
				if second < l.looked.Load() {
					l.peak.raise(Peak{Second: int64(second), Requests: uint64(count + n)})
				}
				return
			}
		case cell.CompareAndSwap(old, pack(second, n)):
			l.retired += uint64(count)
			l.peak.raise(Peak{Second: int64(tag), Requests: uint64(count)})
			if second < l.looked.Load() {
				l.peak.raise(Peak{Second: int64(second), Requests: uint64(n)})
			}
			return
		}
	}
}

// at returns the count of a second; one whose cell has been taken has none.
func (l *secondLog) at(second uint32) uint32 {
	if cell := l.cell(second); cell != nil {
		if tag, count := unpack(cell.Load()); tag == second {
			return count
		}
	}
	return 0
}

// before returns the counts of the whole seconds before the given one, newest
// first and without the zeros at the end.
func (l *secondLog) before(second uint32) []uint32 {
	var all [windowSeconds]uint32
	n := 0
	for i := range all {
		if all[i] = l.at(second - 1 - uint32(i)); all[i] != 0 {
			n = i + 1
		}
	}
	return append([]uint32(nil), all[:n]...)
}

// highest returns the peak of all seconds before the given one, under the mutex.
// Those before the last call's need not be looked at again.
func (l *secondLog) highest(second uint32) Peak {
	from := l.looked.Load()
	// What is counted in a second before this one without the mutex is either
	// seen below, or sets again.
	l.looked.Store(max(from, second))
	if l.again.Swap(false) || second < from || second-from > logSeconds {
		l.lookAtAll(second)
		return l.peak
	}
	for ; from < second; from++ {
		l.peak.raise(Peak{Second: int64(from), Requests: uint64(l.at(from))})
	}
	return l.peak
}

func (l *secondLog) lookAtAll(second uint32) {
	for i := range l.pages {
		p := l.pages[i].Load()
		if p == nil {
			continue
		}
		for j := range p {
			if tag, count := unpack(p[j].Load()); tag < second {
				l.peak.raise(Peak{Second: int64(tag), Requests: uint64(count)})
			}
		}
	}
}

// Peak is the second with the most requests.
type Peak struct {
	// Second is its Unix time: of several with as many, the first. Zero means
	// that there have been no requests in a whole second.
	Second int64 `json:"second"`
	// Requests is how many ended in it.
	Requests uint64 `json:"requests"`
}

func (p *Peak) raise(q Peak) {
	if q.Requests > p.Requests || q.Requests == p.Requests && q.Requests > 0 && q.Second < p.Second {
		*p = q
	}
}

// Window holds the events of the last five minutes by the second in which they
// ended. It is part of a snapshot and does not change.
type Window struct {
	// Second is the Unix time of the second in which the snapshot was taken.
	// It is not over, so no rate includes it.
	Second int64 `json:"second"`
	// Requests and Errors count the events of the 300 whole seconds before
	// Second, the newest first. Seconds beyond the end of the slice had none.
	Requests []uint32 `json:"requests,omitempty"`
	Errors   []uint32 `json:"errors,omitempty"`
	// Current counts the requests of Second so far.
	Current uint32 `json:"current,omitempty"`
	// Peak is the busiest whole second since the beginning.
	Peak Peak `json:"peak,omitzero"`
	// Late counts the requests, since the beginning, that were recorded more
	// than eight minutes after they ended, because their goroutine had stood
	// still that long. They are in every total and in no window.
	Late uint64 `json:"late,omitempty"`
}

// Rate returns the requests per second over the whole seconds that the window
// spans. The window is rounded down to seconds, and is one at least and 300 at
// most. Seconds before the Meter was created count as seconds without requests.
func (w Window) Rate(window time.Duration) float64 {
	n := wholeSeconds(window)
	return float64(sum(w.Requests, n)) / float64(n)
}

// ErrorRatio returns the share of failed requests in the window, between 0 and
// 1, over the same seconds as [Window.Rate]. It is 0 if there were no requests.
func (w Window) ErrorRatio(window time.Duration) float64 {
	n := wholeSeconds(window)
	requests, errs := sum(w.Requests, n), sum(w.Errors, n)
	if requests == 0 {
		return 0
	}
	return min(1, float64(errs)/float64(requests))
}

func wholeSeconds(window time.Duration) int {
	return int(min(max(window/time.Second, 1), windowSeconds))
}

func sum(counts []uint32, n int) (total uint64) {
	for _, c := range counts[:min(n, len(counts))] {
		total += uint64(c)
	}
	return total
}
