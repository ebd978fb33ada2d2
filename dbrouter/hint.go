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

// hintKey is the context key of WithPrimary and WithReplica.
type hintKey struct{}

// WithPrimary returns a context whose statements all go to the primary. One use
// is Eventual with a read that has to see the caller's own write. The comment
// /* dbrouter: primary */ before a statement does the same.
func WithPrimary(ctx context.Context) context.Context {
	return context.WithValue(ctx, hintKey{}, hint{kind: hintPrimary})
}

// WithReplica returns a context whose reads go to a replica that is no more than
// maxStale behind as of the last look at it, under any Consistency: they may miss
// recent writes, the caller's own among them. Zero means Config.MaxLag, which
// is the most in any case. Without such a replica the primary does the read. Statements that are no reads are
// not affected. The comment /* dbrouter: replica */ before a statement does the
// same with Config.MaxLag.
func WithReplica(ctx context.Context, maxStale time.Duration) context.Context {
	return context.WithValue(ctx, hintKey{}, hint{kind: hintReplica, stale: max(maxStale, 0)})
}

// hinted returns the context's hint, or else the comment's. WithPrimary wins
// over a comment because it is the stricter of the two, and a comment for the
// primary wins over WithReplica.
func hinted(ctx context.Context, comment hintKind) hint {
	h, _ := ctx.Value(hintKey{}).(hint)
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
