package dbrouter

import "time"

// hold holds a statement back until there is something newer than s that has a
// primary: a node that a look has found to be writable. It says no if there is
// none in time, or if too many statements are held back already. Nothing of the
// statement may have been done.
func (r *Router) hold(k *call, s *snapshot) bool {
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
		if s = r.monitor.now.Load(); s.primary != nil {
			return true
		}
	}
}
