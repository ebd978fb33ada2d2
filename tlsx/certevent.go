package tlsx

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// CertEventKind is what happened to a certificate.
type CertEventKind uint8

const (
	// CertIssued: there was no certificate before.
	CertIssued CertEventKind = iota + 1
	// CertRenewed: it replaces another, also when files changed.
	CertRenewed
	// CertFailed: one could not be had or read; the one before stays.
	CertFailed
	// CertExpiring: it is near its end, and attempts to renew it fail.
	CertExpiring
	// CertRevoked: its authority has taken it back.
	CertRevoked
)

// String returns "issued", "renewed", "failed", "expiring" or "revoked".
func (k CertEventKind) String() string {
	switch k {
	case CertIssued:
		return "issued"
	case CertRenewed:
		return "renewed"
	case CertFailed:
		return "failed"
	case CertExpiring:
		return "expiring"
	case CertRevoked:
		return "revoked"
	}
	return fmt.Sprintf("CertEventKind(%d)", uint8(k))
}

// CertEvent is something that happened to a certificate of a [CertSource].
type CertEvent struct {
	Kind CertEventKind
	// Name is what the certificate is for, such as a DNS name or a file.
	Name string
	// NotAfter is when the certificate that is served now expires; zero where
	// that is not known.
	NotAfter time.Time
	// Err is why, if Kind is CertFailed or CertExpiring.
	Err error
}

// notifier is a source that tells what happens to its certificates.
type notifier interface {
	Notify(func(CertEvent))
}

// listeners are those who hear of the events of a source. The zero value has
// none.
type listeners struct {
	mu    sync.Mutex // guards funcs, which is replaced and never changed
	funcs []func(CertEvent)
}

func (l *listeners) add(f func(CertEvent)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.funcs = append(slices.Clip(l.funcs), f)
}

func (l *listeners) tell(e CertEvent) {
	l.mu.Lock()
	funcs := l.funcs
	l.mu.Unlock()
	for _, f := range funcs {
		f(e)
	}
}
