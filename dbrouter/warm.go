package dbrouter

// keepWarm gives a connection back with its place, if nobody waits for that and
// none is warm yet.
func (l *pool) keepWarm(p *physical) bool {
	generation := p.generation
	if q := l.warm.Load(); q != p && (q != nil || !l.warm.CompareAndSwap(nil, p)) || !l.quiet(generation) {
		return false
	}
	p.warm.Store(true)
	l.lookAgain(p, generation)
	return true
}

// lookAgain follows on keepWarm, when the connection is another's already: whoever
// has begun to wait meanwhile, or to close the connections, either has found it or
// is found here.
func (l *pool) lookAgain(p *physical, generation uint64) {
	if l.quiet(generation) && l.warm.Load() == p {
		return
	}
	if p.warm.CompareAndSwap(true, false) {
		l.putIdle(p)
	}
}

// quiet says whether a connection may come back without being of interest to
// anybody.
func (l *pool) quiet(generation uint64) bool {
	return l.queued.Load() == 0 && !l.shut.Load() && generation == l.generation.Load()
}

// takeWarm returns the warm connection, and its place with it; nil if there is
// none.
func (l *pool) takeWarm() *physical {
	if p := l.warm.Load(); p != nil && p.warm.CompareAndSwap(true, false) {
		return p
	}
	return nil
}

// cool makes the warm connection one of the idle ones, or closes it. If it is in
// use, another one may become warm.
func (l *pool) cool() {
	if p := l.warm.Swap(nil); p != nil && p.warm.CompareAndSwap(true, false) {
		l.putIdle(p)
	}
}
