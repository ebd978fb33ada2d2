package qps

// boundBuckets are the buckets that the bounds are the upper edges of.
var boundBuckets = func() (b [len(bounds)]int) {
	for i, bound := range bounds {
		b[i] = bucketOf(bound)
	}
	return b
}()

// add counts the durations of a recorder by the bounds, each where it belongs and
// not yet with those below, and returns how many there are. Of the sum it holds
// what gather does: it never lacks what is counted, but for long ones.
func (f *figures) add(r *recorder) (n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f.sum += r.rest.Load()
	next := 0 // bound
	for i := range r.pages {
		p := r.pages[i].Load()
		if p == nil {
			continue
		}
		var spilled *[pageSize]uint64
		if r.spilled != nil {
			spilled = r.spilled[i]
		}
		for from := 0; from < pageSize; {
			for next < len(bounds) && boundBuckets[next] < i<<subBits+from {
				next++
			}
			to := pageSize
			if next < len(bounds) {
				to = min(to, boundBuckets[next]-i<<subBits+1)
			}
			count, nanos := p.total(i, from, to)
			if spilled != nil {
				for slot, n := range spilled[from:to] {
					count += n
					nanos += n * lowerEdge(i<<subBits+from+slot)
				}
			}
			f.upTo[next] += count
			f.sum += nanos
			n += count
			from = to
		}
	}
	return n
}

// total adds up some cells of the page of an octave: how many durations there are,
// and their sum.
func (p *page) total(octave, from, to int) (count, nanos uint64) {
	var slots uint64 // of all durations
	for slot := from; slot < to; slot++ {
		v := p[slot&(pageSize-1)].Load()
		n := v & cellCount
		count += n
		slots += n * uint64(slot)
		nanos += v >> cellCountBits
	}
	// The sum of the lower edges.
	if octave > 0 {
		slots = (count<<subBits + slots) << (octave - 1)
	}
	return count, nanos + slots
}
