package dbrouter

import (
	"context"
	"strings"
	"time"
)

// hint is what a caller asks for beside the statement itself.
type hint struct {
	kind  hintKind
	stale time.Duration // with hintReplica; zero: Config.MaxLag
}

type hintKind uint8

const (
	noHint hintKind = iota
	hintPrimary
	hintReplica
)

// wishes are what a context asks for. It is one value, so that a statement has to
// look once.
type wishes struct {
	hint    hint
	session *Session // nil: none
}

// wishesKey is the context key of a *wishes.
type wishesKey struct{}

// asks returns what a context asks for, nil if for nothing.
func asks(ctx context.Context) *wishes {
	w, _ := ctx.Value(wishesKey{}).(*wishes)
	return w
}

// with returns a context that asks for the same, but for what change does.
func (w *wishes) with(ctx context.Context, change func(*wishes)) context.Context {
	var next wishes
	if w != nil {
		next = *w
	}
	change(&next)
	return context.WithValue(ctx, wishesKey{}, &next)
}

// own is the session of the context, nil if there is none.
func (w *wishes) own() *Session {
	if w == nil {
		return nil
	}
	return w.session
}

// WithPrimary returns a context whose statements all go to the primary. One use
// is Eventual with a read that has to see the caller's own write. The comment
// /* dbrouter: primary */ before a statement does the same.
func WithPrimary(ctx context.Context) context.Context {
	return asks(ctx).with(ctx, func(w *wishes) { w.hint = hint{kind: hintPrimary} })
}

// WithReplica returns a context whose reads go to a replica that is no more than
// maxStale behind as of the last look at it, under any Consistency: they may miss
// recent writes, the caller's own among them. Zero means Config.MaxLag, which
// is the most in any case. Without such a replica the primary does the read. Statements that are no reads are
// not affected. The comment /* dbrouter: replica */ before a statement does the
// same with Config.MaxLag.
func WithReplica(ctx context.Context, maxStale time.Duration) context.Context {
	return asks(ctx).with(ctx, func(w *wishes) { w.hint = hint{kind: hintReplica, stale: max(maxStale, 0)} })
}

// hinted returns the context's hint, or else the comment's. WithPrimary wins
// over a comment because it is the stricter of the two, and a comment for the
// primary wins over WithReplica.
func (w *wishes) hinted(comment hintKind) hint {
	var h hint
	if w != nil {
		h = w.hint
	}
	switch {
	case comment == hintPrimary:
		h = hint{kind: hintPrimary}
	case h.kind == noHint:
		h.kind = comment
	}
	return h
}

// staleLimit is how far a replica may be behind for a read with the hint.
func (r *Router) staleLimit(h hint) time.Duration {
	if h.kind == hintReplica && h.stale > 0 {
		return min(h.stale, r.conf.MaxLag)
	}
	return r.conf.MaxLag
}

// maxHints bounds the comments that are looked through for a hint.
const maxHints = 4

// commentHint reads the hint in the comments before a statement.
func commentHint(sql string) hintKind {
	for range maxHints {
		sql = strings.TrimLeft(sql, " \t\r\n")
		rest, ok := strings.CutPrefix(sql, "/*")
		if !ok {
			return noHint
		}
		comment, after, ok := strings.Cut(rest, "*/")
		if !ok {
			return noHint
		}
		if name, value, ok := strings.Cut(comment, ":"); ok && strings.TrimSpace(name) == "dbrouter" {
			switch strings.TrimSpace(value) {
			case "primary":
				return hintPrimary
			case "replica":
				return hintReplica
			}
		}
		sql = after
	}
	return noHint
}
