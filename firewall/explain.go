package firewall

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// Explanation is a [Decision] and how it came about.
type Explanation struct {
	Decision
	// Depth is where the decision is made.
	Depth Depth
	// Steps are what was looked at, in order and for people to read: who the
	// client is, each rule with what every predicate of it came out as, and
	// each limit.
	Steps []string
}

// String returns the decision and, on lines of their own, its steps.
func (e Explanation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v depth: %v by %v", e.Depth, e.Verdict, e.Reason)
	if id := e.RuleID + e.LimitID + e.SizeID; id != "" {
		fmt.Fprintf(&b, " %s", quoteWord(id))
	}
	if e.Undecided {
		b.WriteString(", undecided")
	}
	fmt.Fprintf(&b, " (generation %d)\n", e.Generation)
	for _, s := range e.Steps {
		fmt.Fprintf(&b, "\t%s\n", s)
	}
	return b.String()
}

// ExplainRequest is [Firewall.DecideRequest] with an explanation. The decision is
// made by the code that Handler runs, which writes down its steps, but for one
// thing: every rule is asked, also those of which Handler knows that they do not
// match.
func (f *Firewall) ExplainRequest(r *http.Request) Explanation {
	o := outcome{explain: true}
	d := f.peekRequest(r, &o)
	return Explanation{d, RequestDepth, o.steps}
}

// ExplainConn is [Firewall.DecideConn] with an explanation.
func (f *Firewall) ExplainConn(src, dst netip.AddrPort) Explanation {
	o := outcome{explain: true}
	d := f.peekConn(src, dst, &o)
	return Explanation{d, AcceptDepth, o.steps}
}

// ExplainPacket is [Firewall.DecidePacket] with an explanation.
func (f *Firewall) ExplainPacket(packet Packet) Explanation {
	o := outcome{explain: true}
	d := f.peekPacket(packet, &o)
	return Explanation{d, PacketDepth, o.steps}
}

// ExplainFrame is [Firewall.DecideFrame] with an explanation.
func (f *Firewall) ExplainFrame(frame []byte, state ConnState) Explanation {
	o := outcome{explain: true}
	d := f.peekFrame(frame, state, &o)
	return Explanation{d, PacketDepth, o.steps}
}

func (o *outcome) explainClient(client netip.Addr) {
	if client.IsValid() {
		o.step("client %v", client)
	} else {
		o.step("client cannot be told")
	}
}

func (o *outcome) explainBan(ban banEntry, now int64) {
	o.step("banned for %v more: %q", time.Duration(ban.until-now).Round(time.Second), ban.reason)
}

func (o *outcome) explainRule(r *boundRule, f *facts, t truth) {
	var mode string
	if r.Mode == Monitor {
		mode = "monitor "
	}
	o.step("%s%v %s if %s: %v", mode, r.Verdict, quoteWord(r.ID), r.match.explained(f), t)
}

func (o *outcome) explainLimit(l *boundLimit, over bool, wait time.Duration) {
	switch {
	case !over:
		o.step("limit %s: within", quoteWord(l.ID))
	case wait == 0:
		o.step("limit %s: over, until a connection ends", quoteWord(l.ID))
	default:
		o.step("limit %s: over, for %v more", quoteWord(l.ID), wait.Round(time.Millisecond))
	}
}

func (o *outcome) explainSize(s *boundSize, status int) {
	if status == 0 {
		o.step("size %s: within", quoteWord(s.ID))
	} else {
		o.step("size %s: over, %d", quoteWord(s.ID), status)
	}
}
