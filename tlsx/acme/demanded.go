package acme

import (
	"fmt"
	"sync"
	"time"
)

const (
	// demandRetry is how long a name is left alone after a failure.
	demandRetry = time.Minute
	// admission is how long it is remembered that a name was let in, while it
	// waits for its turn to be ordered.
	admission = time.Minute
)

// demanded are the names that came by handshakes.
type demanded struct {
	mu      sync.Mutex // guards the rest
	names   map[string]*demand
	letIn   map[string]*letIn // which are not among names yet
	window  time.Time         // the minute of ordered
	ordered int
	swept   time.Time // when failures that are over were last looked for
}

// letIn is a name that Decide has let in.
type letIn struct {
	until time.Time // when to decide again
	look  time.Time // when the storage may be looked at again without a turn to order
}

// demand is one name. Its err and until are set before done is closed.
type demand struct {
	*kept
	done  chan struct{}
	err   error
	until time.Time // after a failure: when to try again
}

// isReady says that there is a certificate.
func (d *demand) isReady() bool {
	select {
	case <-d.done:
		return d.err == nil
	default:
		return false
	}
}

// ready returns the state of a name that has a certificate, or nil.
func (d *demanded) ready(name string) *kept {
	d.mu.Lock()
	defer d.mu.Unlock()
	if state := d.names[name]; state != nil && state.isReady() {
		return state.kept
	}
	return nil
}

// all lists the names that have certificates.
func (d *demanded) all() []*kept {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []*kept
	for _, state := range d.names {
		if state.isReady() {
			out = append(out, state.kept)
		}
	}
	return out
}

// drop forgets a name.
func (d *demanded) drop(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.names, name)
}

// find returns the state of a name that is there, on its way, or failed lately.
func (d *demanded) find(name string, now time.Time) *demand {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.present(name, now)
}

// present is find for a caller that holds mu. A failure that is over gives its
// place up.
func (d *demanded) present(name string, now time.Time) *demand {
	state := d.names[name]
	if state != nil && state.over(now) {
		delete(d.names, name)
		return nil
	}
	return state
}

// over says that a failure is so long ago that the name may be tried again.
func (d *demand) over(now time.Time) bool {
	select {
	case <-d.done:
		return d.err != nil && !now.Before(d.until)
	default:
		return false
	}
}

// room returns an error if there may be no more names. The caller holds mu.
func (d *demanded) room(most int, now time.Time) error {
	if len(d.names) < most {
		return nil
	}
	if now.Sub(d.swept) >= time.Second { // as anyone may ask at any rate
		d.swept = now
		for name, state := range d.names {
			if state.over(now) {
				delete(d.names, name)
			}
		}
	}
	if len(d.names) >= most {
		return fmt.Errorf("%w: %d names", ErrLimit, most)
	}
	return nil
}

// turn returns an error if no name may be ordered in this minute any more. The
// caller holds mu.
func (d *demanded) turn(perMinute int, now time.Time) error {
	if now.Sub(d.window) >= time.Minute {
		d.window, d.ordered = now, 0
	}
	if d.ordered >= perMinute {
		return fmt.Errorf("%w: %d orders in a minute", ErrLimit, perMinute)
	}
	return nil
}

// wait says whether a name has been let in. While it cannot be ordered, it still
// may be in the storage, as another process of the cluster has other turns, but
// that is looked at once in a while only.
func (d *demanded) wait(name string, limits *OnDemand, now time.Time) (decided bool, err error) {
	most, perMinute := limits.bounds()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.present(name, now) != nil {
		return true, nil // by now
	}
	if err := d.room(most, now); err != nil {
		return false, err
	}
	in := d.letIn[name]
	if in == nil || !now.Before(in.until) {
		return false, nil
	}
	if err := d.turn(perMinute, now); err != nil {
		if now.Before(in.look) {
			return false, err
		}
		in.look = now.Add(lookLeast)
	}
	return true, nil
}

// remember takes note that a name was let in. Of too many, any is forgotten.
func (d *demanded) remember(name string, limits *OnDemand, now time.Time) {
	most, _ := limits.bounds()
	d.mu.Lock()
	defer d.mu.Unlock()
	for other := range d.letIn {
		if len(d.letIn) < most {
			break
		}
		delete(d.letIn, other)
	}
	if d.letIn == nil {
		d.letIn = make(map[string]*letIn)
	}
	d.letIn[name] = &letIn{until: now.Add(admission), look: now.Add(lookLeast)}
}

// admit adds a name within the limits, or returns the state of one that is there.
func (d *demanded) admit(name string, stored bool, limits *OnDemand, now time.Time) (state *demand, fresh bool, err error) {
	most, perMinute := limits.bounds()
	d.mu.Lock()
	defer d.mu.Unlock()
	if state := d.present(name, now); state != nil {
		return state, false, nil
	}
	if err := d.room(most, now); err != nil {
		return nil, false, err
	}
	if !stored {
		if err := d.turn(perMinute, now); err != nil {
			return nil, false, err
		}
		d.ordered++
	}
	delete(d.letIn, name)
	if d.names == nil {
		d.names = make(map[string]*demand)
	}
	state = &demand{kept: newKept(name), done: make(chan struct{})}
	state.demanded = true
	d.names[name] = state
	return state, true, nil
}
