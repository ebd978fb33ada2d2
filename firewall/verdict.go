package firewall

import "fmt"

// Verdict is what a policy says about a connection or request. The zero value
// refuses, so that a forgotten one fails closed.
type Verdict uint8

const (
	// Drop, the zero value, refuses at the earliest depth that can tell.
	Drop Verdict = iota
	// Accept lets through.
	Accept
	// Reject refuses too. An HTTP request gets the same answer as for Drop; the
	// two differ where a packet filter enforces the policy, which says nothing
	// to a dropped client.
	Reject
)

var verdictNames = [...]string{Drop: "drop", Accept: "accept", Reject: "reject"}

// String returns "drop", "accept" or "reject".
func (v Verdict) String() string { return nameOf(verdictNames[:], uint8(v), "Verdict") }

// MarshalText implements [encoding.TextMarshaler]. It refuses what is not a
// verdict.
func (v Verdict) MarshalText() ([]byte, error) {
	if int(v) >= len(verdictNames) {
		return nil, fmt.Errorf("firewall: %v is no verdict", v)
	}
	return []byte(v.String()), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler] for what
// [Verdict.String] returns.
func (v *Verdict) UnmarshalText(text []byte) error {
	for i, name := range verdictNames {
		if name == string(text) {
			*v = Verdict(i)
			return nil
		}
	}
	return fmt.Errorf("firewall: verdict %q, want drop, accept or reject", clip(string(text)))
}

// Mode says whether a rule or limit acts.
type Mode uint8

const (
	// Enforce, the zero value, acts.
	Enforce Mode = iota
	// Monitor counts and reports a match and then goes on as if there were
	// none, to see what a rule would do before it does.
	Monitor
)

// String returns "enforce" or "monitor".
func (m Mode) String() string { return nameOf([]string{"enforce", "monitor"}, uint8(m), "Mode") }

// Depth is a place where a policy is enforced.
type Depth uint8

const (
	// RequestDepth is [Firewall.Handler], which sees everything.
	RequestDepth Depth = iota
	// AcceptDepth is [Firewall.Listener], which sees addresses only.
	AcceptDepth
	// PacketDepth is a packet filter, which sees each packet alone.
	PacketDepth
	// TLSDepth is a server with [Firewall.TLSConfig], which sees addresses and
	// what the client says first in TLS.
	TLSDepth
)

// String returns "request", "accept", "packet" or "tls".
func (d Depth) String() string {
	return nameOf([]string{"request", "accept", "packet", "tls"}, uint8(d), "Depth")
}

// Reason is what brought a decision about.
type Reason uint8

const (
	// ByDefault: no rule matched, Policy.Default decided.
	ByDefault Reason = iota
	// ByRule: the rule named by the RuleID decided.
	ByRule
	// ByLimit: the client is over the limit named by the LimitID.
	ByLimit
	// ByBan: the client is banned.
	ByBan
	// ByClient: nobody can tell who the client is. The peer has no IP address,
	// or a trusted proxy sent a forwarding header that cannot be read.
	ByClient
	// ByPacket: no rule was asked, since the packet cannot be read, and is
	// dropped, or is not IP, and is accepted.
	ByPacket
	// BySize: the request is larger than the size limit named by the SizeID
	// allows.
	BySize
	// ByEscalation: the escalation named by the EscalationID bans a network. It
	// is the reason of an [Event] only.
	ByEscalation
)

// String returns "default", "rule", "limit", "ban", "client", "packet", "size" or
// "escalation".
func (r Reason) String() string {
	return nameOf([]string{"default", "rule", "limit", "ban", "client", "packet", "size", "escalation"}, uint8(r), "Reason")
}

func nameOf(names []string, i uint8, kind string) string {
	if int(i) < len(names) {
		return names[i]
	}
	return fmt.Sprintf("%s(%d)", kind, i)
}

// clip bounds how much of a value goes into an error.
func clip(s string) string {
	const limit = 100
	if len(s) > limit {
		return s[:limit] + "…"
	}
	return s
}
