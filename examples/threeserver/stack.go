package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"

	"github.com/palisade-go/palisade/lb"
)

// stack is what has been started, so that it can be stopped in reverse order,
// and the first failure of anything that runs by itself.
type stack struct {
	stops  []stop
	shown  *serviceMap
	failed chan error
	served sync.WaitGroup
}

type stop struct {
	what string
	do   func(context.Context) error
}

func newStack() *stack { return &stack{failed: make(chan error, 1)} }

// onStop registers how to stop something that has just been started.
func (s *stack) onStop(what string, do func(context.Context) error) {
	s.stops = append(s.stops, stop{what, do})
}

// fail reports that something which should go on has ended.
func (s *stack) fail(err error) {
	select {
	case s.failed <- err:
	default: // the first failure is the one to tell
	}
}

// stop stops everything, last started first: the doors close before what is
// behind them. The context bounds the draining, not the cleaning up.
func (s *stack) stop(ctx context.Context) {
	for i := len(s.stops) - 1; i >= 0; i-- {
		if err := s.stops[i].do(ctx); err != nil {
			slog.Warn("threeserver: stopping", "what", s.stops[i].what, "err", err)
		}
	}
	s.served.Wait()
	s.stops = nil
}

// listen binds an address, with an error that names the flag to change.
func listen(flag, addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("-%s: %w", flag, err)
	}
	return ln, nil
}

// serve runs a server until the stack stops, which drains it.
func (s *stack) serve(what string, srv *lb.Server, run func() error) {
	s.served.Go(func() {
		if err := run(); err != http.ErrServerClosed {
			s.fail(fmt.Errorf("%s: %w", what, err))
		}
	})
	s.onStop(what, func(ctx context.Context) error {
		if err := srv.Shutdown(ctx); err != nil {
			srv.Close()
			return fmt.Errorf("requests were cut off: %w", err)
		}
		return nil
	})
}
