package dbrouter

import (
	"context"
	"errors"
	"os"
	"time"
)

// ahead is a wait for a position that goes to the server in front of a driver's
// next command, in one write with it: the server does one after the other, and
// the wait costs no round trip. Its answer is taken out of what the server sends.
// Unless that says that the position has been applied, the connection is closed,
// and nothing of what follows gets to the driver.
//
// It belongs to the goroutine that uses the connection.
type ahead struct {
	state aheadState
	waits *waits // of the node
	leads bool   // those who come meanwhile wait together; see waits.alone
	p     *physical
	want  position
	limit time.Duration
	asked time.Time // when it was made ready
	at    time.Time // when it was passed
	err   error     // why it was not

	command []byte // the packet, which the next command is appended to
	answer  []byte // what there is of an answer that comes in pieces
}

type aheadState uint8

const (
	aheadNone   aheadState = iota
	aheadReady             // it goes with the next command
	aheadSent              // its answer has not come
	aheadPassed            // what comes now is the driver's
	aheadFailed            // the connection is closed
)

// Whether a wait may go ahead; see waits.apart.
const (
	together    = iota
	apartOnce   // until one that went alone is passed
	apartAlways // the answers of this node are not understood
)

const (
	// aheadCopy bounds the write that both commands share, in bytes; a longer
	// command is written after the wait.
	aheadCopy = 8 << 10
	// aheadKeep bounds the memory that is kept for the next wait.
	aheadKeep = 2 * aheadCopy
)

// goAhead has the wait go ahead of the next command on the connection, where the
// answer will be understood. The caller has the lead. It keeps it until the answer
// is there or [physical.waited] is called.
func (w *waits) goAhead(p *physical, want position, limit time.Duration) bool {
	t := p.track
	if t == nil || !t.framed || t.out != 0 || t.ahead.state != aheadNone || w.apart.Load() != together {
		return false
	}
	a := &t.ahead
	a.state, a.waits, a.leads, a.p, a.want, a.limit, a.asked = aheadReady, w, true, p, want, limit, time.Now()
	sql := want.dialect.wait(want.text, limit)
	n := len(sql) + 1
	a.command = append(a.command[:0], byte(n), byte(n>>8), byte(n>>16), 0, comQuery)
	a.command = append(a.command, sql...)
	return true
}

// precedes says whether the wait is to be sent before a packet: one that begins a
// command with an answer.
func (a *ahead) precedes(packet []byte) bool {
	if a.state != aheadReady || packet[3] != 0 {
		return false
	}
	if len(packet) == 4 {
		return true // what it is comes later
	}
	switch packet[4] {
	case comQuit, comLongData, comCloseStmt:
		return false
	}
	return true
}

// sendAhead writes what the driver writes, with the wait in front of what is at
// the offset.
func (t *tracker) sendAhead(b []byte, at int) (int, error) {
	a := &t.ahead
	if at > 0 {
		if n, err := t.Conn.Write(b[:at]); err != nil {
			return n, err
		}
	}
	a.state = aheadSent
	rest := b[at:]
	if len(rest) <= aheadCopy {
		a.command, rest = append(a.command, rest...), nil
	}
	if _, err := t.Conn.Write(a.command); err != nil {
		return at, err
	}
	if len(rest) > 0 {
		if n, err := t.Conn.Write(rest); err != nil {
			return at + n, err
		}
	}
	return len(b), nil
}

// readAhead reads the answer to the wait, and returns what came behind it.
func (t *tracker) readAhead(b []byte) (int, error) {
	a := &t.ahead
	until := time.Now().Add(a.limit + lateAnswer)
	if !t.deadline.IsZero() && t.deadline.Before(until) {
		until = t.deadline
	}
	if err := t.Conn.SetReadDeadline(until); err != nil {
		return t.notPassed(err)
	}
	for {
		n, failed := t.Conn.Read(b)
		got := b[:n]
		if len(a.answer) > 0 {
			a.answer = append(a.answer, got...)
			got = a.answer
		}
		used, err := waitAnswer(got)
		switch {
		case err != nil:
			return t.notPassed(err)
		case used > 0:
			a.pass()
			// What is behind it came with the latest piece.
			return copy(b, got[used:]), t.Conn.SetReadDeadline(t.deadline)
		case failed != nil:
			return t.notPassed(failed)
		case len(a.answer) == 0:
			a.answer = append(a.answer, got...)
		}
	}
}

// pass takes in that the server has applied the position, for all who want to
// know.
func (a *ahead) pass() {
	a.state, a.at = aheadPassed, time.Now()
	a.p.applied = a.want.text
	a.waits.learn(proof{a.want, a.asked})
	a.resign()
}

// resign gives up the lead.
func (a *ahead) resign() {
	if a.leads {
		a.leads = false
		a.waits.alone.Store(false)
	}
}

// notPassed closes the connection: what follows on the wait is done too early.
func (t *tracker) notPassed(err error) (int, error) {
	t.ahead.state, t.ahead.err = aheadFailed, err
	t.raw.Close()
	return 0, err
}

// open says whether the server may still have both, the wait and the command.
func (a *ahead) open() bool { return a.state == aheadSent || a.state == aheadFailed }

// end forgets the wait.
func (a *ahead) end() {
	a.resign()
	kept := ahead{command: a.command[:0], answer: a.answer[:0]}
	if cap(kept.command) > aheadKeep {
		kept.command = nil
	}
	if cap(kept.answer) > aheadKeep {
		kept.answer = nil
	}
	*a = kept
}

// waited tells what has become of a wait that went ahead of a statement which has
// ended with err: why that does not count, if it does not.
func (p *physical) waited(ctx context.Context, err error) (reason string) {
	if p.track == nil || p.track.ahead.state == aheadNone {
		return ""
	}
	a := &p.track.ahead
	defer a.end()
	if a.state == aheadPassed || a.state == aheadReady && err != nil {
		return "" // in the latter case nothing was sent
	}
	if ctx.Err() != nil {
		return unreachable // nobody's fault, and nobody's business any more
	}
	late := errors.Is(a.err, os.ErrDeadlineExceeded)
	switch {
	case errors.Is(a.err, errBehind), errors.Is(a.err, errWaitRefused), late:
		// The next one asks by itself, which does not cost a connection.
		a.waits.apart.CompareAndSwap(together, apartOnce)
		p.kill(true)
	case errors.Is(a.err, errWaitAnswer):
		a.waits.apart.Store(apartAlways)
	}
	if errors.Is(a.err, errBehind) {
		return tooFarBehind
	}
	a.waits.node.lookNow()
	if late {
		return tooFarBehind
	}
	return unreachable
}
