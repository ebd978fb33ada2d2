package dbrouter

import (
	"context"
	"database/sql/driver"
	"errors"
	"sync"
	"time"
)

// positionLimit bounds the question for a position.
const positionLimit = 2 * time.Second

// errDemoted: what was taken for the primary is none any more.
var errDemoted = errors.New("it has become read-only")

// errNoProof: the primary records no positions.
var errNoProof = errors.New("dbrouter: the primary records no GTIDs")

// position is all that the primary had written at a moment.
type position struct {
	dialect dialect
	text    string
}

// round is one question to the primary, for all who asked before it was sent.
// A reader must not use the answer to an earlier question: a write may have
// been acknowledged in between.
type round struct {
	done chan struct{}
	position
	err error
}

// positions asks the primary for its position, one question at a time.
type positions struct {
	m    *monitor
	wake chan struct{}

	mu   sync.Mutex // guards next
	next *round     // not sent yet
}

// ask returns a position that covers everything acknowledged before the call.
func (p *positions) ask(ctx context.Context, done <-chan struct{}) (position, error) {
	p.mu.Lock()
	if p.next == nil {
		p.next = &round{done: make(chan struct{})}
		select {
		case p.wake <- struct{}{}:
		default:
		}
	}
	r := p.next
	p.mu.Unlock()
	select {
	case <-r.done:
		return r.position, r.err
	case <-ctx.Done():
		return position{}, ctx.Err()
	case <-done:
		return position{}, ErrClosed
	}
}

// run asks until the context ends.
func (p *positions) run(ctx context.Context) {
	l := new(link)
	defer func() { l.close() }()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		}
		p.mu.Lock()
		r := p.next
		p.next = nil
		p.mu.Unlock()
		if r == nil {
			continue
		}
		s := p.m.now.Load()
		if l.node != s.primary {
			l.close()
			l = &link{node: s.primary}
		}
		r.position, r.err = question(ctx, p.m, l, s)
		if r.err != nil && s.primary != nil && !errors.Is(r.err, errNoProof) {
			s.primary.lookNow()
		}
		close(r.done)
	}
}

func question(ctx context.Context, m *monitor, l *link, s *snapshot) (position, error) {
	switch {
	case s.primary == nil:
		return position{}, s.noPrimary()
	case !s.proof:
		return position{}, errNoProof
	}
	var answer []string
	err := l.do(ctx, positionLimit, func(ctx context.Context, conn driver.Conn) (err error) {
		answer, err = askOne(ctx, conn, s.dialect.position(), 2)
		return err
	})
	if err != nil {
		return position{}, &NodeError{Node: s.primary.name, Err: err}
	}
	// The same answer tells that it still is the primary, so that the position
	// is not that of a node which was demoted since the last look.
	if !takesWrites(answer[0]) {
		m.demoted(s.primary)
		return position{}, &NodeError{Node: s.primary.name, Err: errDemoted}
	}
	clean, err := cleanPosition(answer[1])
	return position{dialect: s.dialect, text: clean}, err
}
