package load

import (
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/palisade-go/palisade/bench/internal/measure"
)

// Open sends requests at the times of a schedule, however slow the responses
// are, on whichever connection is free; a request that finds none waits for
// one. The latency of each is counted from the time at which it was due, so that
// it has in it what a user would have waited. Requests that are due before warm
// are not counted; none is due after warm and length. It returns when all
// responses have come.
func (c Client) Open(rate float64, seed uint64, warm, length time.Duration) (*measure.Histogram, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// The kernel may end a wait 50 µs late unless it is told not to.
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("load: prctl: %w", err)
	}
	w, err := c.connect()
	if err != nil {
		return nil, err
	}
	defer w.close()
	o := opener{
		wires: w, schedule: NewSchedule(rate, seed), warm: warm, end: warm + length,
		begun: make([]time.Duration, c.Conns), free: make(chan int, c.Conns), start: time.Now(),
	}
	for i := range c.Conns {
		o.free <- i
	}
	o.due = o.schedule.Next()
	for o.due < o.end || len(o.free) < c.Conns {
		if err := o.step(); err != nil {
			return nil, err
		}
	}
	return &o.latency, nil
}

type opener struct {
	wires     *wires
	schedule  *Schedule
	start     time.Time
	warm, end time.Duration
	due       time.Duration   // when the next request is
	begun     []time.Duration // when that of each connection was due
	free      chan int        // connections, the one that is free longest first
	latency   measure.Histogram
}

// step sends what is due and receives what has come.
func (o *opener) step() error {
	now := time.Since(o.start)
	if now > o.end+patience {
		return fmt.Errorf("load: responses are missing %v after the end", patience)
	}
	for o.due <= now && o.due < o.end && len(o.free) > 0 {
		i := <-o.free
		o.begun[i] = o.due
		if err := o.wires.send(i); err != nil {
			return err
		}
		o.due = o.schedule.Next()
	}
	wait := 100 * time.Millisecond
	if o.due < o.end && len(o.free) > 0 {
		wait = max(0, o.due-time.Since(o.start))
	}
	events, err := o.wires.poller.wait(wait)
	if err != nil {
		return err
	}
	for _, e := range events {
		i := int(e.Fd)
		done, err := o.wires.receive(i)
		if err != nil {
			return err
		}
		if !done {
			continue
		}
		if o.begun[i] >= o.warm {
			o.latency.Record(time.Since(o.start) - o.begun[i])
		}
		o.free <- i
	}
	return nil
}
