package lb

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"
)

// HealthCheck configures active checks: a GET request to every backend, again
// and again, each on a connection of its own, so that it also shows whether the
// backend accepts any; those of h2c backends share one with the requests. Redirects are not followed. Its zero value is usable.
// Probe and Func check in another way.
//
// The first check of a backend starts at once and decides alone: the backend is
// healthy or not. From then on Rise and Fall count. A connection that a request
// fails to make counts as if all of Fall had failed.
type HealthCheck struct {
	// Probe is how a backend is checked. The zero value is ProbeHTTP, for which
	// alone Path, ExpectStatus and ExpectBody are.
	Probe Probe
	// Func checks in place of Probe: nil is a good result. It must return when
	// ctx ends, and is called by many goroutines. Nil means that Probe is done.
	Func func(ctx context.Context, b *Backend) error
	// Path is what is asked for, with a query if need be. Empty means "/".
	Path string
	// Host is the Host field, or :authority. Empty means the host of the backend's
	// URL.
	Host string
	// Service is whose health ProbeGRPC asks for, as in "shop.v1.Cart", 256 bytes
	// at most. Empty means the server's as a whole.
	Service string
	// Interval is the time from the end of a check to the start of the next, give
	// or take a tenth, so that balancers do not check in step. 0 means 5 s.
	Interval time.Duration
	// IntervalDown takes the place of Interval while the backend is unhealthy: a
	// shorter one finds out sooner that it is back. 0 means Interval.
	IntervalDown time.Duration
	// Timeout bounds a check. 0 means 2 s.
	Timeout time.Duration
	// Rise is how many checks in a row an unhealthy backend must pass. 0 means 1.
	Rise int
	// Fall is how many checks in a row a healthy backend must fail. 0 means 2.
	Fall int
	// ExpectStatus says whether a status is good. Nil means 200 to 399.
	ExpectStatus func(status int) bool
	// ExpectBody is what must be in the first 64 KiB of the body. Empty means
	// that the body is not read.
	ExpectBody string
}

const maxServiceLength = 256

func (h *HealthCheck) validate() error {
	var errs []error
	complain := func(field string, found any, want string) {
		errs = append(errs, fmt.Errorf("lb: HealthCheck.%s is %v, want %s", field, found, want))
	}
	if _, err := url.ParseRequestURI(h.Path); h.Path != "" && (err != nil || !strings.HasPrefix(h.Path, "/") || strings.Contains(h.Path, "#")) {
		complain("Path", fmt.Sprintf("%q", h.Path), "a path that starts with /")
	}
	if h.Host != "" && !httpguts.ValidHostHeader(h.Host) {
		complain("Host", fmt.Sprintf("%q", h.Host), "a host name")
	}
	if h.Probe < ProbeHTTP || h.Probe > ProbeGRPC {
		complain("Probe", int(h.Probe), "ProbeHTTP, ProbeTCP or ProbeGRPC")
	}
	if h.Service != "" && (h.Probe != ProbeGRPC || len(h.Service) > maxServiceLength || !utf8.ValidString(h.Service)) {
		complain("Service", fmt.Sprintf("%.100q", h.Service), fmt.Sprintf("%d bytes of UTF-8 at most, and only with ProbeGRPC", maxServiceLength))
	}
	if len(h.ExpectBody) > maxProbeBody {
		complain("ExpectBody", fmt.Sprintf("%d bytes long", len(h.ExpectBody)), fmt.Sprintf("%d at most", maxProbeBody))
	}
	if h.IntervalDown < 0 {
		complain("IntervalDown", h.IntervalDown, "0 for the default or more")
	}
	if h.Interval < 0 {
		complain("Interval", h.Interval, "0 for the default or more")
	}
	if h.Timeout < 0 {
		complain("Timeout", h.Timeout, "0 for the default or more")
	}
	if h.Rise < 0 {
		complain("Rise", h.Rise, "0 for the default or more")
	}
	if h.Fall < 0 {
		complain("Fall", h.Fall, "0 for the default or more")
	}
	return errors.Join(errs...)
}

func (h HealthCheck) withDefaults() HealthCheck {
	if h.Path == "" {
		h.Path = "/"
	}
	if h.Interval == 0 {
		h.Interval = 5 * time.Second
	}
	if h.IntervalDown == 0 {
		h.IntervalDown = h.Interval
	}
	if h.Timeout == 0 {
		h.Timeout = 2 * time.Second
	}
	if h.Rise == 0 {
		h.Rise = 1
	}
	if h.Fall == 0 {
		h.Fall = 2
	}
	if h.ExpectStatus == nil {
		h.ExpectStatus = func(status int) bool { return status >= 200 && status <= 399 }
	}
	return h
}

// keepChecking checks b until ctx ends.
func (p *Pool) keepChecking(ctx context.Context, b *Backend) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		err := p.check(ctx, b)
		if ctx.Err() != nil {
			return
		}
		p.checked(b, err)
		interval := p.conf.Health.Interval
		if State(b.health.Load()) == Unhealthy {
			interval = p.conf.Health.IntervalDown
		}
		timer.Reset(jitter(interval))
	}
}

func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}

// checked counts the result of a check.
func (p *Pool) checked(b *Backend, err error) {
	p.mu.Lock()
	if b.removed {
		p.mu.Unlock()
		return
	}
	h, state := p.conf.Health, State(b.health.Load())
	if err == nil {
		b.good, b.bad = b.good+1, 0
		if state == Unknown || state == Unhealthy && b.good >= h.Rise {
			p.setHealth(b, Healthy, nil)
		}
	} else {
		b.good, b.bad = 0, b.bad+1
		b.noteError(err)
		if state == Unknown || state == Healthy && b.bad >= h.Fall {
			p.setHealth(b, Unhealthy, err)
		}
	}
	p.mu.Unlock()
	p.notify()
}

// unreachable takes the failure of a request to connect for a sign, so that a
// server that died is not tried once by each request until its next check.
func (p *Pool) unreachable(b *Backend, err error) {
	if p.conf.Health == nil || State(b.health.Load()) == Unhealthy {
		return
	}
	p.mu.Lock()
	if !b.removed && State(b.health.Load()) != Unhealthy {
		b.good = 0
		p.setHealth(b, Unhealthy, err)
	}
	p.mu.Unlock()
	p.notify()
}
