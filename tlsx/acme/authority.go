package acme

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

const (
	// requestTimeout is for one request to an authority. One that got no answer
	// is repeated twice, within the same order.
	requestTimeout = 20 * time.Second
	// orderBurst is how many orders may be made at once before their rate counts.
	orderBurst = 10
	// holdMost bounds for how long an authority's Retry-After is heeded.
	holdMost = 24 * time.Hour
)

// authority is one that certificates are ordered from, with our account there.
type authority struct {
	Authority
	storage   certmagic.Storage
	logger    *slog.Logger
	key       string // of its folder in the storage, as certmagic has it
	client    *acmez.Client
	transport *http.Transport
	pace      pace

	mu      chan struct{} // one slot; guards account
	account acme.Account
}

func (s *Source) newAuthority(a Authority) *authority {
	out := &authority{
		Authority: a,
		storage:   s.conf.Storage,
		logger:    s.conf.Logger,
		key:       (&certmagic.ACMEIssuer{CA: a.Directory}).IssuerKey(),
		mu:        make(chan struct{}, 1),
	}
	out.pace.every = time.Minute / time.Duration(s.conf.OrdersPerMinute)
	out.transport = &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: requestTimeout}).DialContext,
		TLSClientConfig:       &tls.Config{RootCAs: a.RootCAs},
		TLSHandshakeTimeout:   requestTimeout,
		ResponseHeaderTimeout: requestTimeout,
		IdleConnTimeout:       30 * time.Second,
		ForceAttemptHTTP2:     true,
	}
	out.client = &acmez.Client{
		Client: &acme.Client{
			Directory:  a.Directory,
			UserAgent:  "palisade",
			HTTPClient: &http.Client{Transport: heedful{out.transport, &out.pace}, Timeout: requestTimeout},
			Logger:     slog.New(quietHandler{s.conf.Logger.Handler()}),
		},
		ChallengeSolvers: s.solvers(out),
	}
	return out
}

// place is a key in the authority's folder.
func (a *authority) place(elem ...string) string {
	return path.Join(append([]string{"acme", certmagic.StorageKeys.Safe(a.key)}, elem...)...)
}

// accountPlaces are the keys of an account and of its private key. The folder is
// that of certmagic, so that its programs can share the account.
func (a *authority) accountPlaces() (registration, private string) {
	email := strings.ToLower(a.Email)
	if email == "" {
		email = "default"
	}
	user, _, found := strings.Cut(email, "@")
	if found && user == "" {
		user = email[1:]
	}
	dir := a.place("users", certmagic.StorageKeys.Safe(email))
	user = certmagic.StorageKeys.Safe(user)
	return path.Join(dir, user+".json"), path.Join(dir, user+".key")
}

// open returns our account: the one in the storage, or a new one.
func (a *authority) open(ctx context.Context) (acme.Account, error) {
	select {
	case a.mu <- struct{}{}:
		defer func() { <-a.mu }()
	case <-ctx.Done():
		return acme.Account{}, context.Cause(ctx)
	}
	if a.account.Status == acme.StatusValid {
		return a.account, nil
	}
	acct, err := a.loadAccount(ctx)
	if errors.Is(err, fs.ErrNotExist) {
		acct, err = a.register(ctx)
	}
	if err != nil {
		return acme.Account{}, fmt.Errorf("acme: account at %s: %w", a.Directory, err)
	}
	a.account = acct
	return acct, nil
}

func (a *authority) loadAccount(ctx context.Context) (acme.Account, error) {
	registration, private := a.accountPlaces()
	var acct acme.Account
	data, err := a.storage.Load(ctx, registration)
	if err != nil {
		return acct, err
	}
	key, err := a.storage.Load(ctx, private)
	if err != nil {
		return acct, err
	}
	if err := json.Unmarshal(data, &acct); err != nil {
		return acct, err
	}
	acct.PrivateKey, err = certmagic.PEMDecodePrivateKey(key)
	return acct, err
}

// register makes an account, once in a cluster.
func (a *authority) register(ctx context.Context) (acme.Account, error) {
	lock := "register_acme_account"
	if a.Email != "" {
		lock += "_" + strings.ToLower(a.Email)
	}
	if err := a.storage.Lock(ctx, lock); err != nil {
		return acme.Account{}, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storageTimeout)
		defer cancel()
		if err := a.storage.Unlock(ctx, lock); err != nil {
			a.logger.Warn("acme: lock not released", "lock", lock, "err", err)
		}
	}()
	if acct, err := a.loadAccount(ctx); !errors.Is(err, fs.ErrNotExist) {
		return acct, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return acme.Account{}, err
	}
	acct := acme.Account{PrivateKey: key, TermsOfServiceAgreed: true}
	if a.Email != "" {
		acct.Contact = []string{"mailto:" + strings.ToLower(a.Email)}
	}
	if a.Account != nil {
		if err := acct.SetExternalAccountBinding(ctx, a.client.Client, acme.EAB{KeyID: a.Account.KeyID, MACKey: a.Account.MACKey}); err != nil {
			return acme.Account{}, err
		}
	}
	if acct, err = a.client.NewAccount(ctx, acct); err != nil {
		return acme.Account{}, err
	}
	data, err := json.MarshalIndent(acct, "", "\t")
	if err != nil {
		return acme.Account{}, err
	}
	private, err := certmagic.PEMEncodePrivateKey(key)
	if err != nil {
		return acme.Account{}, err
	}
	registrationPlace, privatePlace := a.accountPlaces()
	// The key first: a registration without one is of no use to anybody.
	err = a.storage.Store(ctx, privatePlace, private)
	if err == nil {
		err = a.storage.Store(ctx, registrationPlace, data)
	}
	return acct, err
}

// forget drops an account that the authority does not know any more.
func (a *authority) forget(ctx context.Context, acct acme.Account) error {
	select {
	case a.mu <- struct{}{}:
		defer func() { <-a.mu }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if a.account.Location != acct.Location {
		return nil // somebody else has forgotten it already
	}
	a.account = acme.Account{}
	registration, private := a.accountPlaces()
	return errors.Join(a.storage.Delete(ctx, registration), a.storage.Delete(ctx, private))
}

// pace bounds the rate of orders at an authority: a few at once, then one in
// each interval, and none while the authority asks to be left alone.
type pace struct {
	every time.Duration

	mu   sync.Mutex // guards the rest
	next time.Time  // when the budget of past orders is used up
	hold time.Time
}

// reserve takes a place in the queue, unless its turn comes after end, if that is
// not zero. It returns the turn.
func (p *pace) reserve(now, end time.Time) (at time.Time, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	next := p.next
	if next.Before(now) {
		next = now
	}
	next = next.Add(p.every)
	if at = next.Add(-orderBurst * p.every); at.Before(p.hold) {
		at = p.hold
	}
	if !end.IsZero() && at.After(end) {
		return at, false
	}
	p.next = next
	return at, true
}

// wait returns when it is the caller's turn. One that would come too late for
// the context is given up at once, and takes no place.
func (p *pace) wait(ctx context.Context) error {
	now := time.Now()
	end, _ := ctx.Deadline()
	at, ok := p.reserve(now, end)
	if !ok {
		return fmt.Errorf("acme: the next order may be made at %s", at.Format(time.RFC3339))
	}
	timer := time.NewTimer(at.Sub(now))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// heedful is a transport that takes note of Retry-After where an authority says
// that it gets too many requests or is overloaded (RFC 8555, section 6.6).
type heedful struct {
	next http.RoundTripper
	pace *pace
}

// RoundTrip implements http.RoundTripper.
func (h heedful) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := h.next.RoundTrip(r)
	if err != nil || res.StatusCode != http.StatusTooManyRequests && res.StatusCode != http.StatusServiceUnavailable {
		return res, err
	}
	now := time.Now()
	until, ok := parseRetryAfter(res.Header.Get("Retry-After"), now)
	if !ok {
		return res, nil
	}
	if most := now.Add(holdMost); until.After(most) {
		until = most
	}
	h.pace.mu.Lock()
	defer h.pace.mu.Unlock()
	if h.pace.hold.Before(until) {
		h.pace.hold = until
	}
	return res, nil
}

// parseRetryAfter reads a number of seconds or a date (RFC 9110, section
// 10.2.3).
func parseRetryAfter(s string, now time.Time) (time.Time, bool) {
	if seconds, err := strconv.ParseUint(s, 10, 31); err == nil {
		return now.Add(time.Duration(seconds) * time.Second), true
	}
	t, err := http.ParseTime(s)
	return t, err == nil
}
