package dbrouter

import (
	"context"
	"sync"
)

// Session is what one user has written, or has been told of: the reads made
// with its context see all of it, under any Consistency but PrimaryOnly, where
// they do so anyway. It begins with [Router.NewSession], or with
// [Router.WithToken] as the continuation of one of another process. It is safe
// for concurrent use.
type Session struct {
	r  *Router
	mu sync.Mutex // guards what follows
	at position
	// unsure: there may have been a write whose position is not known. A read
	// asks the primary then, as under Global.
	unsure bool
	// strict: all writes are known, but the session may be the continuation of one
	// that nobody has told of. Its first read asks the primary, too.
	strict bool
	// changes counts, so that an answer is not taken for one about later writes.
	changes uint64
}

// NewSession returns a context whose statements belong to a new Session.
func (r *Router) NewSession(ctx context.Context) (context.Context, *Session) {
	s := &Session{r: r}
	return asks(ctx).with(ctx, func(w *wishes) { w.session = s }), s
}

// session returns the session of a read: that of its context, or, under the
// consistency of that name, the one that all statements of the Router share.
// It is nil if there is none.
func (r *Router) session(w *wishes) *Session {
	if own := w.own(); own != nil && own.r == r {
		return own
	}
	if r.conf.Consistency == PerSession {
		return r.shared
	}
	return nil
}

// wrote takes in the position of a write; sure says that it is known.
func (s *Session) wrote(at position, sure bool) {
	if sure && at.text == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes++
	if !sure || !s.add(at) {
		s.unsure = true
	}
}

// add joins a position with what there is.
func (s *Session) add(at position) bool {
	if at.text == "" {
		return true
	}
	if s.at.text == "" {
		s.at.dialect = at.dialect
	}
	if s.at.dialect != at.dialect {
		return false
	}
	text, err := join(at.dialect, s.at.text, at.text)
	if err != nil || len(text) > maxPosition {
		return false
	}
	s.at.text = text
	return true
}

// read returns what a read must see, and whether that is known.
func (s *Session) read() (at position, sure bool, changes uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at, !s.unsure && !s.strict, s.changes
}

// known returns what is to be told of the session, and whether it is all.
func (s *Session) known() (at position, sure bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at, !s.unsure
}

// settle takes in the primary's answer to a question that was asked after the
// given number of changes.
func (s *Session) settle(at position, changes uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changes != changes {
		return
	}
	// All that the session had to know is in it, or is lost.
	s.at, s.unsure, s.strict = at, false, false
}

// written tells the sessions what a statement on the primary has written. A
// server that does not report is asked, if the statement may have written and
// anybody will want to know. own is the session of its context, nil if there is
// none.
func (r *Router) written(ctx context.Context, own *Session, p *physical, may bool) {
	if p.readOnly {
		return
	}
	if own != nil && own.r != r {
		own = nil
	}
	if p.track == nil && own == nil && r.conf.Consistency != PerSession {
		return // nothing is known, and nobody asks
	}
	at, sure := p.wrote()
	if own == nil && r.conf.Consistency != PerSession || !sure && !may {
		return
	}
	if !sure {
		// An answer that does not come leaves the sessions unsure.
		var err error
		at, err = r.positions.ask(ctx, r.done)
		sure = err == nil
	}
	if own != nil {
		own.wrote(at, sure)
	}
	if r.conf.Consistency == PerSession {
		r.shared.wrote(at, sure)
	}
}
