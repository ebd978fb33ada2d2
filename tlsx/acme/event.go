package acme

import (
	"fmt"
	"sync"
	"time"

	"github.com/palisade-go/palisade/tlsx"
)

// EventKind is what happened to a certificate.
type EventKind uint8

const (
	// Obtained: there was no certificate before.
	Obtained EventKind = iota + 1
	// Renewed: it replaces one that would have expired, or was revoked.
	Renewed
	// Failed: an attempt did not succeed. There will be another.
	Failed
	// Expiring: the certificate is in the last fifth of its life, and attempts to
	// renew it fail. It happens once for a certificate, beside Failed.
	Expiring
	// Revoked: the authority has taken it back, as it was asked to.
	Revoked
)

// String returns "obtained", "renewed", "failed", "expiring" or "revoked".
func (k EventKind) String() string {
	switch k {
	case Obtained:
		return "obtained"
	case Renewed:
		return "renewed"
	case Failed:
		return "failed"
	case Expiring:
		return "expiring"
	case Revoked:
		return "revoked"
	}
	return fmt.Sprintf("EventKind(%d)", uint8(k))
}

// Event is something that happened to the certificate of a name.
type Event struct {
	Kind EventKind
	Name string
	// NotAfter is when the certificate expires; that of the present one if Kind
	// is Failed or Expiring, zero without one.
	NotAfter time.Time
	// Err is why, if Kind is Failed or Expiring.
	Err error
}

// listeners are who else hears of events.
type listeners struct {
	mu    sync.Mutex // guards funcs
	funcs []func(tlsx.CertEvent)
}

// Notify has a function called for each event, for as long as the Source exists:
// tlsx.New does so for tlsx.Config.OnCert. It must not block or call Close.
func (s *Source) Notify(f func(tlsx.CertEvent)) {
	s.listeners.mu.Lock()
	defer s.listeners.mu.Unlock()
	s.listeners.funcs = append(s.listeners.funcs, f)
}

var certEvents = [...]tlsx.CertEventKind{
	Obtained: tlsx.CertIssued, Renewed: tlsx.CertRenewed, Failed: tlsx.CertFailed, Expiring: tlsx.CertExpiring, Revoked: tlsx.CertRevoked,
}

func (s *Source) tell(e Event) {
	if s.conf.OnEvent != nil {
		s.conf.OnEvent(e)
	}
	s.listeners.mu.Lock()
	funcs := s.listeners.funcs
	s.listeners.mu.Unlock()
	for _, f := range funcs {
		f(tlsx.CertEvent{Kind: certEvents[e.Kind], Name: e.Name, NotAfter: e.NotAfter, Err: e.Err})
	}
}
