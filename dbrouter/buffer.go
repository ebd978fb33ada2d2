package dbrouter

import "time"

// hold holds a statement back until there is something newer than s that has a
// primary: a node that a look has found to be writable, and if that is refuser,
// which has just refused the statement, a look that has begun since. It says no
// if there is none in time, or if too many statements are held back already.
// Nothing of the statement may have been done.
func (r *Router) hold(k *call, s *snapshot, refuser *node) bool {
	if r.conf.BufferWait == 0 {
		return false
	}
	left := r.conf.BufferWait - time.Since(k.begun)
	if left <= 0 || k.ctx.Err() != nil {
		return false
	}
	select {
	case r.held <- struct{}{}:
	default:
		return false
	}
	defer func() { <-r.held }()
	refused := time.Now()
	timer := time.NewTimer(left)
	defer timer.Stop()
	for {
		select {
		case <-s.changed:
		case <-k.ctx.Done():
			return false
		case <-r.done:
			return false
		case <-timer.C:
			return false
		}
		s = r.monitor.now.Load()
		if s.primary != nil && (s.primary != refuser || s.asked.After(refused)) {
			return true
		}
	}
}
