package fwtest

import (
	"errors"
	"fmt"
	"strings"

	"github.com/palisade-go/palisade/firewall"
)

const maxDifferences = 10

// Report is what [Compare] found.
type Report struct {
	// Frames is how many were compared, and Decided on how many of them the
	// reference could decide.
	Frames, Decided int
	// Unsound are frames that the depth refused and the reference accepts, be
	// it for want of knowing better. Unequal are frames that the depth decided
	// otherwise than the reference, which was sure, and are not among Unsound.
	// Ten of each are kept.
	Unsound, Unequal []Difference
	// More is how many differences were not kept.
	More int
}

// Difference is a frame on which a depth and the reference differ.
type Difference struct {
	Case
	Got  firewall.Verdict
	Want firewall.Decision
}

// String tells the difference on one line, with the frame in hexadecimal.
func (d Difference) String() string {
	return fmt.Sprintf("%s: depth says %v, reference %v by %v %s (undecided %v), frame %x",
		d.Name, d.Got, d.Want.Verdict, d.Want.Reason, d.Want.RuleID, d.Want.Undecided, d.Frame)
}

// Err returns nil if the depth is sound and equal, or an error that lists the
// differences.
func (r Report) Err() error {
	if len(r.Unsound)+len(r.Unequal) == 0 {
		return nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "fwtest: depth differs from the reference on %d of %d frames", len(r.Unsound)+len(r.Unequal)+r.More, r.Frames)
	for _, d := range r.Unsound {
		fmt.Fprintf(&b, "\nunsound: %v", d)
	}
	for _, d := range r.Unequal {
		fmt.Fprintf(&b, "\nunequal: %v", d)
	}
	return errors.New(b.String())
}

// Compare runs every frame through the depth and through the reference, which
// takes all packets to be of the state. Drop and Reject are one if one of them
// comes of a packet that is bad, and two otherwise.
func Compare(reference *firewall.Firewall, state firewall.ConnState, depth func(frame []byte) firewall.Verdict, cases []Case) Report {
	var r Report
	for _, c := range cases {
		r.Frames++
		d := Difference{Case: c, Got: depth(c.Frame), Want: reference.DecideFrame(c.Frame, state)}
		if !d.Want.Undecided {
			r.Decided++
		}
		refused := d.Got != firewall.Accept
		switch {
		case d.Got == d.Want.Verdict:
		case refused && d.Want.Verdict != firewall.Accept && d.Want.Reason == firewall.ByPacket:
		case refused && d.Want.Verdict == firewall.Accept:
			r.Unsound = r.keep(r.Unsound, d)
		default:
			r.Unequal = r.keep(r.Unequal, d)
		}
	}
	return r
}

func (r *Report) keep(list []Difference, d Difference) []Difference {
	if len(list) == maxDifferences {
		r.More++
		return list
	}
	return append(list, d)
}
