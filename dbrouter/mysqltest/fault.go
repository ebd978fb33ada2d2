package mysqltest

import (
	"slices"
	"sync"
	"time"
)

// Fault is a scripted failure of statements. The zero value does nothing once.
type Fault struct {
	// Match chooses the statements. Nil means every statement, those that a driver
	// sends by itself when it connects included.
	Match func(sql string) bool
	// Times is how many statements it strikes. Zero means one, a negative number
	// every one until the fault is removed.
	Times int
	// Delay is waited before anything else; a kill of the statement ends it. Zero
	// means none.
	Delay time.Duration
	// Err is answered in place of the statement's effect. Nil means none.
	Err *Error
	// CutBefore cuts the connection in place of the statement's effect.
	CutBefore bool
	// CutAfter cuts the connection after the statement's effect in place of the
	// answer: the client cannot know the outcome.
	CutAfter bool
}

// faults is the script of a server.
type faults struct {
	mu   sync.Mutex // guards list
	list []*Fault
}

// Inject adds a fault. The first one that matches strikes. The function that it
// returns removes the fault; it may be called again, and after the fault is
// spent.
func (s *Server) Inject(f Fault) (remove func()) {
	if f.Times == 0 {
		f.Times = 1
	}
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.list = append(s.faults.list, &f)
	return func() {
		s.faults.mu.Lock()
		defer s.faults.mu.Unlock()
		s.faults.remove(&f)
	}
}

// FailNext makes the next n statements that match fail with err. A nil match is
// every statement, as in [Fault].
func (s *Server) FailNext(n int, err *Error, match func(sql string) bool) {
	if n > 0 {
		s.Inject(Fault{Match: match, Times: n, Err: err})
	}
}

func (fs *faults) remove(f *Fault) {
	fs.list = slices.DeleteFunc(fs.list, func(other *Fault) bool { return other == f })
}

// take returns the fault that strikes a statement; the zero value does nothing.
func (fs *faults) take(sql string) Fault {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, f := range fs.list {
		if f.Match != nil && !f.Match(sql) {
			continue
		}
		struck := *f
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				fs.remove(f)
			}
		}
		return struck
	}
	return Fault{}
}
