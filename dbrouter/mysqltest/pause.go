package mysqltest

import "context"

// Pause makes the server silent, as SIGSTOP or a network that drops packets does:
// connections are accepted and stay open, nothing is answered. A statement that
// runs takes effect, and its answer is kept back; one that arrives waits.
// Replication goes on. Pausing a paused server does nothing; Restart resumes.
func (s *Server) Pause() { s.paused.CompareAndSwap(nil, new(make(chan struct{}))) }

// Resume ends a pause: what has waited is answered.
func (s *Server) Resume() {
	if gate := s.paused.Swap(nil); gate != nil {
		close(*gate)
	}
}

// pass waits for the end of a pause, or for that of the connection.
func (s *Server) pass(ctx context.Context) error {
	for {
		gate := s.paused.Load()
		if gate == nil {
			return nil
		}
		select {
		case <-*gate:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
