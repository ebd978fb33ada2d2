package dbrouter

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// script is a network connection to a server that has said all it will say.
type script struct {
	net.Conn
	says   []string // what one read gets, at the most
	end    error    // of reading, once all is read
	writes []string
	broken error // of writing
	closed bool
	until  time.Time
}

func (s *script) Read(b []byte) (int, error) {
	switch {
	case s.closed:
		return 0, net.ErrClosed
	case len(s.says) == 0:
		return 0, s.end
	}
	n := copy(b, s.says[0])
	if s.says[0] = s.says[0][n:]; s.says[0] == "" {
		s.says = s.says[1:]
	}
	return n, nil
}

func (s *script) Write(b []byte) (int, error) {
	if s.broken != nil {
		return 0, s.broken
	}
	s.writes = append(s.writes, string(b))
	return len(b), nil
}

func (s *script) Close() error {
	s.closed = true
	return nil
}

func (s *script) SetReadDeadline(at time.Time) error {
	s.until = at
	return nil
}

// leader is a connection whose next command is preceded by a wait.
func leader(t testing.TB, s *script) (*physical, *waits) {
	t.Helper()
	tr := newTracker(s, nil)
	tr.begun, tr.framed, tr.follow = true, true, follower{eof: true}
	w := newWaits(&node{name: "db2", check: make(chan struct{}, 1)})
	p := newPhysical(nothing{}, tr)
	w.alone.Store(true)
	if !w.goAhead(p, position{mariaDB, "0-1-7"}, time.Second) {
		t.Fatal("no wait goes ahead")
	}
	return p, w
}

var (
	theWait  = frame(0, "\x03SELECT MASTER_GTID_WAIT('0-1-7', 1.000)")
	theRead  = frame(0, "\x03SELECT 1")
	column   = frame(2, "\x03def\x00\x00\x00\x01w…")
	waitOK   = frame(4, okPacket(headEOF, 2, ""))
	applied  = frame(1, "\x01") + column + frame(3, "\x010") + waitOK
	answered = frame(1, "\x01") + frame(2, "\x03def…") + frame(3, "\x011") + frame(4, okPacket(headEOF, 2, ""))
)

var waitAnswers = []struct {
	name   string
	answer string
	want   error
}{
	{"applied", applied, nil},
	{"applied, of MariaDB", frame(1, "\x01\x01") + column + frame(3, "\x010") + frame(4, "\xfe\x00\x00\x02\x00\x00\x00\x00"), nil},
	{"not in time", frame(1, "\x01") + column + frame(3, "\x02-1") + waitOK, errBehind},
	{"not in time, of MySQL", frame(1, "\x01") + column + frame(3, "\x011") + waitOK, errBehind},
	{"NULL", frame(1, "\x01") + column + frame(3, "\xfb") + waitOK, errBehind},
	{"00", frame(1, "\x01") + column + frame(3, "\x0200") + waitOK, errBehind},
	{"an error", frame(1, "\xff\x19\x05#42000FUNCTION"), errWaitRefused},
	{"an error among rows", frame(1, "\x01") + column + frame(3, "\xff\x25\x05#70100killed"), errWaitRefused},
	{"an error in place of the end", frame(1, "\x01") + column + frame(3, "\x010") + frame(4, "\xff\x25\x05#70100killed"), errWaitRefused},
	{"an error of any number", frame(0, "\xff\x1d\x04#08S01shutdown"), errWaitRefused},
	{"OK", frame(1, okPacket(headOK, 2, "")), errWaitAnswer},
	{"a file", frame(1, "\xfbname"), errWaitAnswer},
	{"two columns", frame(1, "\x02") + column + frame(3, "\x03def\x00\x00") + frame(4, "\x010\x010") + frame(5, okPacket(headEOF, 2, "")), errWaitAnswer},
	{"no definition", frame(1, "\x01\x00") + frame(2, "\x010") + frame(3, okPacket(headEOF, 2, "")), errWaitAnswer},
	{"no definition, and yet one", frame(1, "\x01\x00") + column + frame(3, "\x010") + waitOK, errWaitAnswer},
	{"no column", frame(1, "\x01") + frame(2, "\x010") + frame(3, okPacket(headEOF, 2, "")), errWaitAnswer},
	{"a definition of another kind", frame(1, "\x01") + frame(2, "\x03abc\x00\x00") + frame(3, "\x010") + waitOK, errWaitAnswer},
	{"OK in place of the end", frame(1, "\x01") + column + frame(3, "\x010") + frame(4, okPacket(headOK, 2, "")), errWaitAnswer},
	{"no row", frame(1, "\x01") + column + frame(3, okPacket(headEOF, 2, "")), errWaitAnswer},
	{"two rows", frame(1, "\x01") + column + frame(3, "\x010") + frame(4, "\x010") + frame(5, okPacket(headEOF, 2, "")), errWaitAnswer},
	{"two values in a row", frame(1, "\x01") + column + frame(3, "\x010\x010") + waitOK, errWaitAnswer},
	{"a long number", frame(1, "\x01") + column + frame(3, "\x15000000000000000000000") + waitOK, errWaitAnswer},
	{"an empty text", frame(1, "\x01") + column + frame(3, "\x00") + waitOK, errWaitAnswer},
	{"another result follows", frame(1, "\x01") + column + frame(3, "\x010") + frame(4, okPacket(headEOF, 2|moreResults, "")), errWaitAnswer},
	{"a cut OK", frame(1, "\x01") + column + frame(3, "\x010") + frame(4, "\xfe\x00\x00\x02\x00\x00"), errWaitAnswer},
	{"an old end", frame(1, "\x01") + column + frame(3, "\xfe\x00\x00\x02\x00"), errWaitAnswer},
	{"a wrong number", frame(0, "\x01") + frame(1, "\x03def\x00\x00") + frame(2, "\x010") + frame(3, okPacket(headEOF, 2, "")), errWaitAnswer},
	{"a number left out", frame(1, "\x01") + column + frame(4, "\x010") + frame(5, okPacket(headEOF, 2, "")), errWaitAnswer},
	{"an empty packet", frame(1, ""), errWaitAnswer},
	{"a long definition", frame(1, "\x01") + frame(2, "\x03def"+strings.Repeat("x", maxWaitAnswer)), errWaitAnswer},
	{"the beginning of a long packet", "\xff\xff\xff\x01", errWaitAnswer},
}

func TestWaitAnswer(t *testing.T) {
	for _, c := range waitAnswers {
		n, err := waitAnswer([]byte(c.answer + answered))
		if !errors.Is(err, c.want) || c.want == nil && n != len(c.answer) || err != nil && n != 0 {
			t.Errorf("%s: %d of %d, %v, want %v", c.name, n, len(c.answer), err, c.want)
		}
		if c.want != nil {
			continue
		}
		for i := range c.answer {
			if n, err := waitAnswer([]byte(c.answer[:i])); n != 0 || err != nil {
				t.Errorf("%s: %d bytes of it: %d, %v", c.name, i, n, err)
			}
		}
	}
}

// TestWaitAheadOfCommands: what is written, whatever the driver writes.
func TestWaitAheadOfCommands(t *testing.T) {
	long := "\x03SELECT '" + strings.Repeat("x", aheadCopy) + "'"
	closing := frame(0, "\x19\x01\x00\x00\x00")
	for _, c := range []struct {
		name   string
		driver []string
		want   []string
	}{
		{"a query", []string{theRead}, []string{theWait + theRead}},
		{"a prepared statement", []string{frame(0, "\x17\x01\x00\x00\x00…")}, []string{theWait + frame(0, "\x17\x01\x00\x00\x00…")}},
		{"another one is closed before", []string{closing, theRead, closing}, []string{closing, theWait + theRead, closing}},
		{"in one write", []string{closing + theRead}, []string{closing, theWait + theRead}},
		{"long data", []string{frame(0, "\x18\x01\x00\x00\x00\x00\x00abc"), theRead}, []string{frame(0, "\x18\x01\x00\x00\x00\x00\x00abc"), theWait + theRead}},
		{"long data in two packets", []string{frame(0, "\x18"+strings.Repeat("y", maxPacket-1)), frame(1, "y"), theRead}, []string{frame(0, "\x18"+strings.Repeat("y", maxPacket-1)), frame(1, "y"), theWait + theRead}},
		{"a long query", []string{frame(0, long)}, []string{theWait, frame(0, long)}},
		{"in two writes", []string{theRead[:4], theRead[4:]}, []string{theWait + theRead[:4], theRead[4:]}},
		{"cut in the middle", []string{theRead[:7], theRead[7:]}, []string{theWait + theRead[:7], theRead[7:]}},
		{"two packets", []string{frame(0, "\x03"+strings.Repeat("y", maxPacket-1)), frame(1, "y")}, []string{theWait, frame(0, "\x03"+strings.Repeat("y", maxPacket-1)), frame(1, "y")}},
		{"quit", []string{frame(0, "\x01")}, []string{frame(0, "\x01")}},
	} {
		s := new(script)
		p, _ := leader(t, s)
		for _, b := range c.driver {
			if n, err := p.track.Write([]byte(b)); n != len(b) || err != nil {
				t.Errorf("%s: %d of %d, %v", c.name, n, len(b), err)
			}
		}
		if !slices.Equal(s.writes, c.want) {
			t.Errorf("%s: written %.80q, want %.80q", c.name, s.writes, c.want)
		}
	}
	// What the reports have come to does not matter.
	s := new(script)
	p, _ := leader(t, s)
	p.track.follow.lost = true
	if p.track.Write([]byte(theRead)); len(s.writes) != 1 || s.writes[0] != theWait+theRead {
		t.Errorf("without reports: %q", s.writes)
	}
	for name, change := range map[string]func(*tracker){
		"framing is lost":           func(tr *tracker) { tr.Write([]byte("\x01\x00")) },
		"in the middle of a packet": func(tr *tracker) { tr.Write([]byte(theRead[:6])) },
		"one is under way":          func(tr *tracker) { tr.ahead.state = aheadSent },
	} {
		p, w := leader(t, new(script))
		p.track.ahead.end()
		change(p.track)
		if w.goAhead(p, position{mariaDB, "0-1-7"}, time.Second) {
			t.Errorf("%s: a wait goes ahead", name)
		}
	}
}

// TestWaitAheadIsSettled: what becomes of the connection, of the others who wait,
// and of the read.
func TestWaitAheadIsSettled(t *testing.T) {
	failed := errors.New("the statement has failed")
	for _, c := range []struct {
		name   string
		says   string
		end    error
		err    error // of the statement
		unsent bool
		broken error
		reason string
		apart  int32
	}{
		{name: "passed", says: applied + answered},
		{name: "passed, and the read fails", says: applied + frame(1, "\xff\x7a\x04#42S02no table"), err: failed},
		{name: "passed, and the read is lost", says: applied, end: io.EOF, err: failed},
		{name: "behind", says: frame(1, "\x01") + column + frame(3, "\x02-1") + waitOK + answered, err: failed, reason: tooFarBehind, apart: apartOnce},
		{name: "refused", says: frame(1, "\xff\x25\x05#70100killed") + answered, err: failed, reason: unreachable, apart: apartOnce},
		{name: "late", end: os.ErrDeadlineExceeded, err: failed, reason: tooFarBehind, apart: apartOnce},
		{name: "cut", says: applied[:20], end: io.EOF, err: failed, reason: unreachable},
		{name: "nonsense", says: answered + answered, err: failed, reason: tooFarBehind, apart: apartOnce},
		{name: "more columns", says: frame(1, "\x02"), err: failed, reason: unreachable, apart: apartAlways},
		{name: "nothing is sent", unsent: true, err: failed},
		{name: "nothing is sent, and yet there is an answer", unsent: true, reason: unreachable},
		{name: "not to be sent", broken: io.ErrClosedPipe, err: failed, reason: unreachable},
		{name: "an answer without the wait's", says: applied[:20], end: io.EOF, reason: unreachable},
	} {
		s := &script{says: []string{c.says}, end: c.end, broken: c.broken}
		if c.says == "" {
			s.says = nil
		}
		p, w := leader(t, s)
		sent := time.Now()
		before := sent.Add(900 * time.Millisecond)
		if !c.unsent {
			p.track.Write([]byte(theRead))
			if c.broken == nil {
				var got []byte
				b := make([]byte, 4096)
				n, err := p.track.Read(b)
				for ; err == nil && n > 0; n, err = p.track.Read(b) {
					got = append(got, b[:n]...)
				}
				if rest, passed := strings.CutPrefix(c.says, applied); passed && string(got) != rest || !passed && len(got) > 0 {
					t.Errorf("%s: the driver reads %q", c.name, got)
				}
			}
		}
		passed := c.reason == "" && !c.unsent
		if got := w.known(&physical{}, position{mariaDB, "0-1-7"}); got != passed || w.alone.Load() == passed {
			t.Errorf("%s: others know that it is applied: %v; the lead is taken: %v", c.name, got, w.alone.Load())
		}
		if have := w.now.Load(); passed && have.asked.After(sent) {
			t.Errorf("%s: known is what was asked for %v after the question", c.name, have.asked.Sub(sent))
		}
		if latest := time.Now().Add(time.Second + lateAnswer); s.until.After(latest) {
			t.Errorf("%s: the wait has until %v, want %v at most", c.name, s.until, latest)
		}
		if (p.applied == "0-1-7") != passed {
			t.Errorf("%s: the connection knows of %q", c.name, p.applied)
		}
		switch {
		case passed && !s.until.IsZero():
			t.Errorf("%s: the read has until %v", c.name, s.until)
		case !passed && !c.unsent && c.broken == nil && (s.until.Before(before) || !s.closed):
			t.Errorf("%s: until %v, closed %v", c.name, s.until, s.closed)
		}
		if got := p.waited(t.Context(), c.err); got != c.reason || w.alone.Load() || w.apart.Load() != c.apart {
			t.Errorf("%s: reason %q, want %q; led %v; apart %d, want %d", c.name, got, c.reason, w.alone.Load(), w.apart.Load(), c.apart)
		}
		if looks, want := len(w.node.check), boolInt(c.reason == unreachable || c.name == "late"); looks != int(want) {
			t.Errorf("%s: %d looks at the node, want %d", c.name, looks, want)
		}
		if p.track.ahead.state != aheadNone || p.waited(t.Context(), nil) != "" {
			t.Errorf("%s: there is a wait still", c.name)
		}
	}
}

// TestWaitAheadAgain: nothing is left of one wait for the next one on the connection,
// and the caller's going away is nobody's fault.
func TestWaitAheadAgain(t *testing.T) {
	s := &script{}
	p, w := leader(t, s)
	for i := range 3 {
		if i > 0 && !w.goAhead(p, position{mariaDB, "0-1-7"}, time.Second) {
			t.Fatalf("%d: no wait goes ahead", i)
		}
		s.writes, s.says = nil, []string{applied[:9], applied[9:30], applied[30:] + answered}
		p.track.Write([]byte(theRead))
		b := make([]byte, 200)
		if n, err := p.track.Read(b); string(b[:n]) != answered || err != nil || !slices.Equal(s.writes, []string{theWait + theRead}) {
			t.Errorf("%d: read %q, %v; written %q", i, b[:n], err, s.writes)
		}
		if reason := p.waited(t.Context(), nil); reason != "" {
			t.Errorf("%d: %s", i, reason)
		}
	}
	w.goAhead(p, position{mariaDB, "0-1-7"}, time.Second)
	p.track.Write([]byte(theRead))
	s.closed = true // by the driver, because the context has ended
	p.track.Read(make([]byte, 200))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if reason := p.waited(ctx, ctx.Err()); reason == "" || len(w.node.check) > 0 || w.apart.Load() != together {
		t.Errorf("reason %q, %d looks, apart %d", reason, len(w.node.check), w.apart.Load())
	}
}

// TestWaitAheadKeepsLittle: a long position is no reason to hold on to its memory.
func TestWaitAheadKeepsLittle(t *testing.T) {
	p, w := leader(t, new(script))
	a := &p.track.ahead
	a.end()
	if cap(a.command) == 0 {
		t.Error("nothing is kept")
	}
	if !w.goAhead(p, position{mariaDB, "0-1-7" + strings.Repeat(",0-1-7", aheadKeep/5)}, time.Second) {
		t.Fatal("no wait goes ahead")
	}
	a.answer = make([]byte, 0, aheadKeep+1)
	if a.end(); cap(a.command) > aheadKeep || cap(a.answer) > aheadKeep {
		t.Errorf("%d and %d bytes are kept", cap(a.command), cap(a.answer))
	}
}

// TestWaitAheadIsNoLatency: the time of a replica's catching up is not that of its
// reads.
func TestWaitAheadIsNoLatency(t *testing.T) {
	p, _ := leader(t, new(script))
	n := &node{name: "db2"}
	p.pool = &pool{node: n}
	k := &call{ctx: t.Context(), known: &cached{Classification: Classification{Read, "read"}}, do: func(p *physical) error {
		p.track.ahead.state, p.track.ahead.at = aheadPassed, time.Now().Add(-time.Hour)
		return nil
	}}
	if err := k.runTimed(p, "read", true); err != nil || time.Duration(n.latency.average()) < time.Hour {
		t.Errorf("%v, %v, want the time since the wait was over", err, time.Duration(n.latency.average()))
	}
}

// TestWaitAheadKeepsDeadlines: the driver's own, for the wait's answer if it is
// earlier, and for its own in any case.
func TestWaitAheadKeepsDeadlines(t *testing.T) {
	for _, left := range []time.Duration{time.Millisecond, time.Hour} {
		s := &script{end: os.ErrDeadlineExceeded}
		p, _ := leader(t, s)
		until := time.Now().Add(left)
		p.track.SetReadDeadline(until)
		p.track.Write([]byte(theRead))
		p.track.Read(make([]byte, 100))
		if early := s.until.Equal(until); early != (left < time.Second) {
			t.Errorf("%v left: until %v, the driver's is %v", left, s.until, until)
		}
		s.says, s.closed = []string{applied + answered}, false
		p.track.ahead.state = aheadSent
		p.track.Read(make([]byte, 100))
		if !s.until.Equal(until) {
			t.Errorf("%v left: the read has until %v, want %v", left, s.until, until)
		}
	}
}

// TestFramed: waits go ahead only where commands and answers look as they must.
func TestFramed(t *testing.T) {
	const all = cap41 | capSessionTrack | capDeprecateEOF
	for _, c := range []struct {
		name           string
		server, driver uint32
		want           bool
	}{
		{"go-sql-driver", all, all, true},
		{"no reports", all &^ capSessionTrack, all &^ capSessionTrack, true},
		{"old ends of results", all, all &^ capDeprecateEOF, false},
		{"compression", all | capCompress, all | capCompress, false},
		{"newer compression", all | capZstd, all | capZstd, false},
		{"attributes", all | capAttributes, all | capAttributes, false},
		{"the driver's own TLS", all | capTLS, all | capTLS, false},
		{"an old protocol", all &^ cap41, all &^ cap41, false},
	} {
		s := &script{says: []string{frame(0, "\x0a9.9\x00\x08\x00\x00\x0001234567\x00"+string([]byte{byte(c.server), byte(c.server >> 8), 45, 2, 0, byte(c.server >> 16), byte(c.server >> 24)})+strings.Repeat("\x00", 11))}}
		tr := newTracker(s, nil)
		if _, err := tr.Read(make([]byte, 200)); err != nil {
			t.Fatal(err)
		}
		hello := frame(1, string([]byte{byte(c.driver), byte(c.driver >> 8), byte(c.driver >> 16), byte(c.driver >> 24)})+strings.Repeat("\x00", 40))
		if n, err := tr.Write([]byte(hello)); n != len(hello) || err != nil {
			t.Fatal(n, err)
		}
		if tr.framed != c.want {
			t.Errorf("%s: %v, want %v", c.name, tr.framed, c.want)
		}
	}
}

// passes is waitAnswer, the long way: how much of the stream is the answer, -1 if
// it is none that says that the position is applied.
func passes(stream string) int {
	var packets []string
	n := 0
	for rest := stream; len(packets) < 4; {
		if len(rest) < 4 {
			return -1
		}
		size := int(rest[0]) | int(rest[1])<<8 | int(rest[2])<<16
		if rest[3] != byte(len(packets)+1) || len(rest) < 4+size {
			return -1
		}
		packets = append(packets, rest[4:4+size])
		rest, n = rest[4+size:], n+4+size
	}
	end := packets[3]
	if len(end) == 0 || end[0] != 0xfe || n > maxWaitAnswer {
		return -1
	}
	r := reader{b: []byte(end[1:])}
	r.number()
	r.number()
	status := r.uint16()
	r.uint16()
	if r.bad || status&moreResults != 0 || packets[0] != "\x01" && packets[0] != "\x01\x01" ||
		len(packets[1]) < 5 || packets[1][:4] != "\x03def" || packets[2] != "\x010" {
		return -1
	}
	return n
}

// FuzzWaitAhead: whatever a server sends, however the network cuts it and whatever
// the driver reads at a time, the driver gets what comes after the answer to the
// wait, all of it, if that says that the position is applied, and otherwise
// nothing, over a connection that is closed.
func FuzzWaitAhead(f *testing.F) {
	for _, c := range waitAnswers {
		f.Add([]byte(c.answer+answered), uint64(1))
		f.Add([]byte(c.answer), uint64(2))
	}
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		s := &script{end: io.EOF}
		for rest := string(stream); rest != ""; {
			n := 1 + rnd.IntN(len(rest))
			s.says = append(s.says, rest[:n])
			rest = rest[n:]
		}
		p, w := leader(t, s)
		if _, err := p.track.Write([]byte(theRead)); err != nil {
			t.Fatal(err)
		}
		var got []byte
		for {
			b := make([]byte, 1+rnd.IntN(64))
			n, err := p.track.Read(b)
			got = append(got, b[:n]...)
			if err != nil {
				break
			}
		}
		n := passes(string(stream))
		if cap(p.track.ahead.answer) > 2*maxWaitAnswer {
			t.Errorf("keeps %d bytes", cap(p.track.ahead.answer))
		}
		reason := p.waited(t.Context(), io.EOF)
		known := w.known(&physical{}, position{mariaDB, "0-1-7"})
		switch {
		case n >= 0 && (string(got) != string(stream[n:]) || reason != "" || !known):
			t.Errorf("passed: %q, want %q; reason %q, known %v", got, stream[n:], reason, known)
		case n < 0 && (len(got) > 0 || reason == "" || known || !s.closed):
			t.Errorf("not passed: %q, reason %q, known %v, closed %v", got, reason, known, s.closed)
		}
	})
}
