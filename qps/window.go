package qps

import (
	"sync/atomic"
	"time"
)

const (
	// windowSeconds is the longest window of whole seconds.
	windowSeconds = 60
	// ringCells is a power of two that holds the window, the current second
	// and a margin in which a slow reader is not overtaken.
	ringCells = 64
)

// ring counts events per second. A cell packs the second it counts, as Unix
// time, above the count, so that one compare-and-swap both checks the second
// and counts. An event carries its own time: however late it is recorded, it
// lands in its second, or in late if a newer second has taken the cell.
//
// The sum of all cells, retired and late is the number of events.
type ring struct {
	cells   [ringCells]atomic.Uint64
	retired atomic.Uint64 // counts of seconds whose cell was taken over
	late    atomic.Uint64
}

// add counts one event of the given second. It is lock-free: a failed
// compare-and-swap means that another event was counted.
func (r *ring) add(second uint32) {
	cell := &r.cells[second%ringCells]
	for {
		old := cell.Load()
		switch tag := uint32(old >> 32); {
		case tag == second:
			if cell.CompareAndSwap(old, old+1) {
				return
			}
		case tag < second:
			if cell.CompareAndSwap(old, uint64(second)<<32|1) {
				r.retired.Add(old & 0xffffffff)
				return
			}
		default:
			r.late.Add(1)
			return
		}
	}
}

// at returns the count of a second, and false if its cell counts a newer one.
func (r *ring) at(second uint32) (count uint32, ok bool) {
	cell := r.cells[second%ringCells].Load()
	switch tag := uint32(cell >> 32); {
	case tag == second:
		return uint32(cell), true
	case tag < second:
		return 0, true
	}
	return 0, false
}

// before returns the counts of the whole seconds before the given one, newest
// first and without the zeros at the end.
func (r *ring) before(second uint32) (counts []uint32, ok bool) {
	var all [windowSeconds]uint32
	n := 0
	for i := range all {
		if all[i], ok = r.at(second - 1 - uint32(i)); !ok {
			return nil, false
		}
		if all[i] != 0 {
			n = i + 1
		}
	}
	if n == 0 {
		return nil, true
	}
	return append([]uint32(nil), all[:n]...), true
}

// Window holds the events of the last minute by the second in which they
// ended. It is part of a snapshot and does not change.
type Window struct {
	// Second is the Unix time of the second in which the snapshot was taken.
	// It is not over, so no rate includes it.
	Second int64 `json:"second"`
	// Requests and Errors count the events of the 60 whole seconds before
	// Second, the newest first. Seconds beyond the end of the slice had none.
	Requests []uint32 `json:"requests,omitempty"`
	Errors   []uint32 `json:"errors,omitempty"`
	// Current counts the requests of Second so far.
	Current uint32 `json:"current,omitempty"`
	// Late counts the requests, since the beginning, that were recorded more
	// than a minute after they ended, because their goroutine had stood still
	// that long. They are in every total and in no window.
	Late uint64 `json:"late,omitempty"`
}

// Rate returns the requests per second over the whole seconds that the window
// spans. The window is rounded down to seconds, and is one at least and 60 at
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
