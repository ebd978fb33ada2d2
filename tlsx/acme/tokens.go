package acme

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"path"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

const (
	// tokenFolder is where the challenges that are on are in an authority's folder.
	tokenFolder = "challenge_tokens"
	// tokenReads is how many challenges are looked for in the storage one by one,
	// in a second; the others are looked for in a list of them all.
	tokenReads = 20
	// tokenRest is the time from the beginning of one list to that of the next.
	tokenRest = 250 * time.Millisecond
)

// tokens bounds what it costs that anyone may ask for the challenge of any name:
// the storage is read for a few, and beyond that listed now and then, for all who
// ask meanwhile. Nobody is refused. A challenge that was stored before somebody
// asked for it is found, as a list is begun after they did.
type tokens struct {
	failing atomic.Bool // the last read failed

	making chan struct{} // one slot, for who makes a list; guards begun
	begun  time.Time     // when the last list was

	mu     sync.Mutex // guards the rest
	second time.Time  // that reads are counted in
	reads  int
	next   *tokenList // that has not been begun, and has somebody to make it
}

// tokenList has the challenges that were on in the cluster, by the last part of
// their places. It is made before done is closed, and read afterwards.
type tokenList struct {
	done  chan struct{}
	loads map[string][]func() (acme.Challenge, error) // each reads the storage once
}

// mayRead says whether the storage may be read for a single challenge.
func (t *tokens) mayRead(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(t.second) >= time.Second {
		t.second, t.reads = now, 0
	}
	t.reads++
	return t.reads <= tokenReads
}

// stored returns the challenge of a kind that another process of the cluster has
// on for a name.
func (s *Source) stored(ctx context.Context, kind, name string) (acme.Challenge, bool) {
	if !s.tokens.mayRead(time.Now()) {
		return s.listed(ctx, kind, name)
	}
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	defer cancel()
	for _, a := range s.everyone() {
		c, err := s.loadToken(ctx, tokenPlace(a, name))
		if s.tokenRead(ctx, err) && c.Type == kind && challengeName(c) == name {
			return c, true
		}
	}
	return acme.Challenge{}, false
}

// listed is stored by way of a list that is begun after the call. The first who
// asks makes it, also when the client goes away meanwhile: others wait for it.
func (s *Source) listed(ctx context.Context, kind, name string) (acme.Challenge, bool) {
	t := &s.tokens
	t.mu.Lock()
	list := t.next
	if list == nil {
		list = &tokenList{done: make(chan struct{})}
		t.next = list
		t.mu.Unlock()
		s.makeList(list)
	} else {
		t.mu.Unlock()
	}
	select {
	case <-list.done:
	case <-ctx.Done():
		return acme.Challenge{}, false
	}
	for _, load := range list.loads[path.Base(tokenPlace(s.authorities[0], name))] {
		c, err := load()
		if s.tokenRead(s.ctx, err) && c.Type == kind && challengeName(c) == name {
			return c, true
		}
	}
	return acme.Challenge{}, false
}

// makeList fills in a list when the one before is there and some time has passed.
func (s *Source) makeList(list *tokenList) {
	defer close(list.done)
	t := &s.tokens
	t.making <- struct{}{} // who has it gives it back after storageTimeout and tokenRest at most
	defer func() { <-t.making }()
	if rest := time.Until(t.begun.Add(tokenRest)); rest > 0 {
		timer := time.NewTimer(rest)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-s.ctx.Done():
		}
	}
	t.mu.Lock()
	t.next = nil // whoever comes from now on wants a later one
	t.mu.Unlock()
	t.begun = time.Now()
	if s.ctx.Err() != nil {
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, storageTimeout)
	defer cancel()
	list.loads = make(map[string][]func() (acme.Challenge, error))
	for _, a := range s.everyone() {
		places, err := s.conf.Storage.List(ctx, a.place(tokenFolder), false)
		if !s.tokenRead(ctx, err) {
			continue
		}
		for _, place := range places {
			base := path.Base(place)
			list.loads[base] = append(list.loads[base], sync.OnceValues(func() (acme.Challenge, error) {
				ctx, cancel := context.WithTimeout(s.ctx, storageTimeout)
				defer cancel()
				return s.loadToken(ctx, a.place(tokenFolder, base))
			}))
		}
	}
}

func (s *Source) loadToken(ctx context.Context, place string) (acme.Challenge, error) {
	var c acme.Challenge
	data, err := s.conf.Storage.Load(ctx, place)
	if err != nil {
		return c, err
	}
	if json.Unmarshal(data, &c) != nil {
		return acme.Challenge{}, nil // of no kind: as good as none
	}
	return c, nil
}

// tokenRead says whether the storage was read and had something. That it begins
// to fail, and that it has got over that, is logged once.
func (s *Source) tokenRead(ctx context.Context, err error) bool {
	failed := err != nil && !errors.Is(err, fs.ErrNotExist)
	if failed && errors.Is(ctx.Err(), context.Canceled) {
		return false // which is nothing about the storage
	}
	if s.tokens.failing.CompareAndSwap(!failed, failed) {
		if failed {
			s.conf.Logger.Warn("acme: challenges cannot be looked for in the storage", "err", err)
		} else {
			s.conf.Logger.Info("acme: challenges can be looked for in the storage again")
		}
	}
	return err == nil
}
