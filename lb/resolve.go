package lb

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"syscall"
	"time"
)

const (
	resolveTimeout  = 10 * time.Second
	resolveInterval = 30 * time.Second
	// resolveLeast bounds how often a Resolver is asked, whatever it says.
	resolveLeast = 100 * time.Millisecond
)

// Resolver finds the backends of a [Pool]. [DNS], [SRV] and [File] are Resolvers,
// and so is any function, as a [ResolverFunc].
//
// The pool asks again and again, and each answer that differs from the one before
// is a Set. While there is an error, or an answer that Set refuses, the pool keeps
// the backends it has, and asks again after a pause that grows from 1 s to the
// TTL of the last answer.
type Resolver interface {
	// Resolve returns all backends. It must return when ctx ends, which is after
	// 10 s at the latest. It is called by one goroutine.
	Resolve(ctx context.Context) (Resolution, error)
}

// Resolution is the answer of a [Resolver].
type Resolution struct {
	// Backends are the whole set, in an order that does not change of itself.
	Backends []BackendConfig
	// TTL is for how long the answer is good: when to ask again. 0 means 30 s,
	// and 100 ms is the least.
	TTL time.Duration
}

// ResolverFunc is a function that is a [Resolver].
type ResolverFunc func(ctx context.Context) (Resolution, error)

// Resolve implements [Resolver].
func (f ResolverFunc) Resolve(ctx context.Context) (Resolution, error) { return f(ctx) }

// keepResolving asks the Resolver until the pool closes.
func (p *Pool) keepResolving() {
	a := asked{pool: p, ttl: resolveInterval}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-timer.C:
		}
		if p.ctx.Err() != nil {
			return
		}
		timer.Reset(a.ask())
	}
}

// asked is what keepResolving remembers.
type asked struct {
	pool     *Pool
	answered bool
	last     []BackendConfig
	ttl      time.Duration
	pause    time.Duration // 0: there was no error
}

// ask asks once and returns when to do so again.
func (a *asked) ask() time.Duration {
	p := a.pool
	ctx, cancel := context.WithTimeout(p.ctx, resolveTimeout)
	defer cancel()
	r, err := p.conf.Resolver.Resolve(ctx)
	if err == nil && !(a.answered && slices.Equal(r.Backends, a.last)) {
		err = p.Set(r.Backends)
	}
	switch {
	case p.ctx.Err() != nil:
		return 0
	case err != nil:
		if a.pause == 0 {
			p.conf.Logger.Warn("lb: backends cannot be resolved, the old ones stay", "err", err)
		}
		a.pause = min(max(time.Second, 2*a.pause), max(time.Second, a.ttl))
		return jitter(a.pause)
	case a.pause > 0:
		p.conf.Logger.Info("lb: backends are resolved again", "backends", len(r.Backends))
	}
	a.answered, a.pause, a.last, a.ttl = true, 0, slices.Clone(r.Backends), r.TTL
	if a.ttl == 0 {
		a.ttl = resolveInterval
	}
	a.ttl = max(a.ttl, resolveLeast)
	return a.ttl
}

// maxFile bounds a file of backends.
const maxFile = 4 << 20

// File is a [Resolver] that reads a file: a JSON list of objects with the fields
// of [BackendConfig],
//
//	[{"url": "http://10.0.0.5:8080", "weight": 2}, {"url": "http://10.0.0.6:8080"}]
//
// of which only url must be there. The file is opened by its name each time, so
// that it may be replaced by a rename, as it should be. One that is missing, is
// empty, has no backend, an unknown field, is being written, or is no plain file, is
// an error, so that the pool keeps what it has.
type File struct {
	// Path is the name of the file.
	Path string
	// Interval is the time between reads. 0 means 1 s.
	Interval time.Duration
}

// Resolve implements [Resolver].
func (f File) Resolve(context.Context) (Resolution, error) {
	setDefault(&f.Interval, time.Second)
	// A pipe would have whoever opens it, or reads it, wait for somebody to write.
	file, err := os.OpenFile(f.Path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return Resolution{}, fmt.Errorf("lb: %w", err)
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return Resolution{}, fmt.Errorf("lb: %s is not a plain file: %w", f.Path, cmp.Or(err, os.ErrInvalid))
	}
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return Resolution{}, fmt.Errorf("lb: %w", err)
	}
	backends, err := parseFile(data)
	if err != nil {
		return Resolution{}, fmt.Errorf("lb: %s: %w", f.Path, err)
	}
	return Resolution{Backends: backends, TTL: f.Interval}, nil
}

func parseFile(data []byte) ([]BackendConfig, error) {
	if len(data) > maxFile {
		return nil, fmt.Errorf("more than %d bytes", maxFile)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	var backends []BackendConfig
	if err := d.Decode(&backends); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("there is something after the list")
	}
	if len(backends) == 0 {
		return nil, errors.New("no backends")
	}
	_, err := parseBackends(backends)
	return backends, err
}
