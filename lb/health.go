package lb

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// HealthCheck configures active checks: a GET request to every backend, again
// and again, each on a connection of its own, so that it also shows whether the
// backend accepts any. Redirects are not followed. Its zero value is usable.
//
// The first check of a backend starts at once and decides alone: the backend is
// healthy or not. From then on Rise and Fall count. A connection that a request
// fails to make counts as if all of Fall had failed.
type HealthCheck struct {
	// Path is what is asked for, with a query if need be. Empty means "/".
	Path string
	// Host is the Host field. Empty means the host of the backend's URL.
	Host string
	// Interval is the time from the end of a check to the start of the next, give
	// or take a tenth, so that balancers do not check in step. 0 means 5 s.
	Interval time.Duration
	// Timeout bounds a check. 0 means 2 s.
	Timeout time.Duration
	// Rise is how many checks in a row an unhealthy backend must pass. 0 means 1.
	Rise int
	// Fall is how many checks in a row a healthy backend must fail. 0 means 2.
	Fall int
	// ExpectStatus says whether a status is good. Nil means 200 to 399.
	ExpectStatus func(status int) bool
}

func (h *HealthCheck) validate() error {
	var errs []error
	complain := func(field string, found any, want string) {
		errs = append(errs, fmt.Errorf("lb: HealthCheck.%s is %v, want %s", field, found, want))
	}
	if u, err := url.ParseRequestURI(h.Path); h.Path != "" && (err != nil || !strings.HasPrefix(h.Path, "/") || u.Fragment != "") {
		complain("Path", fmt.Sprintf("%q", h.Path), "a path that starts with /")
	}
	if h.Host != "" && !httpguts.ValidHostHeader(h.Host) {
		complain("Host", fmt.Sprintf("%q", h.Host), "a host name")
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
		timer.Reset(jitter(p.conf.Health.Interval))
	}
}

func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}

// check makes one check of b.
func (p *Pool) check(ctx context.Context, b *Backend) error {
	h := p.conf.Health
	ctx, cancel := context.WithTimeout(ctx, h.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url.String()+h.Path, nil)
	if err != nil {
		return err
	}
	req.Host = h.Host
	req.Header.Set("User-Agent", "palisade-health-check")
	res, err := p.checks.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("health check: %w", err)
	}
	res.Body.Close()
	if !h.ExpectStatus(res.StatusCode) {
		return fmt.Errorf("health check: status %d", res.StatusCode)
	}
	return nil
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
