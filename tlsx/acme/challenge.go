package acme

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

// challengeALPN is the protocol of TLS-ALPN-01, RFC 8737.
const challengeALPN = "acme-tls/1"

// storageTimeout is how long the storage may take to answer.
const storageTimeout = 10 * time.Second

// solvers are the ways to prove names to an authority.
func (s *Source) solvers(a *authority) map[string]acmez.Solver {
	switch {
	case s.conf.PersistentDNS != nil:
		return map[string]acmez.Solver{acme.ChallengeTypeDNSPersist01: &persistSolver{s, a}}
	case s.conf.DNS != nil:
		d := s.conf.DNS
		return map[string]acmez.Solver{acme.ChallengeTypeDNS01: &certmagic.DNS01Solver{DNSManager: certmagic.DNSManager{
			DNSProvider: d.Provider, Resolvers: d.Resolvers, PropagationTimeout: max(-1, d.Propagation), Logger: zapLogger(s.conf.Logger),
		}}}
	}
	out := make(map[string]acmez.Solver)
	if !s.conf.DisableHTTPChallenge {
		out[acme.ChallengeTypeHTTP01] = &solver{s, a, &s.httpDoor}
	}
	if !s.conf.DisableTLSALPNChallenge {
		out[acme.ChallengeTypeTLSALPN01] = &solver{s, a, &s.tlsDoor}
	}
	return out
}

// solver answers HTTP-01 or TLS-ALPN-01 challenges: from memory where the
// authority reaches this process, through the storage where it reaches another.
type solver struct {
	s    *Source
	a    *authority
	door *door
}

// challengeName is the name under which the authority asks.
func challengeName(c acme.Challenge) string {
	if ip, err := netip.ParseAddr(c.Identifier.Value); err == nil && c.Type == acme.ChallengeTypeTLSALPN01 {
		return reverseName(ip) // RFC 8738, section 6
	}
	return c.Identifier.Value
}

// reverseName is the name of an address in the reverse zones of the DNS.
func reverseName(ip netip.Addr) string {
	var b strings.Builder
	raw := ip.Unmap().AsSlice()
	if len(raw) == 4 {
		return fmt.Sprintf("%d.%d.%d.%d.in-addr.arpa", raw[3], raw[2], raw[1], raw[0])
	}
	const hex = "0123456789abcdef"
	for i := len(raw) - 1; i >= 0; i-- {
		b.Write([]byte{hex[raw[i]&15], '.', hex[raw[i]>>4], '.'})
	}
	return b.String() + "ip6.arpa"
}

func tokenPlace(a *authority, name string) string {
	return a.place(tokenFolder, certmagic.StorageKeys.Safe(name)+".json")
}

// Present implements acmez.Solver.
func (v *solver) Present(ctx context.Context, c acme.Challenge) error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	name := challengeName(c)
	if err := v.s.conf.Storage.Store(ctx, tokenPlace(v.a, name), data); err != nil {
		return err
	}
	v.s.challenges.Store(challengeKey{c.Type, name}, c)
	v.door.open(v.s)
	return nil
}

// CleanUp implements acmez.Solver.
func (v *solver) CleanUp(ctx context.Context, c acme.Challenge) error {
	name := challengeName(c)
	if _, ok := v.s.challenges.LoadAndDelete(challengeKey{c.Type, name}); !ok {
		return nil
	}
	v.door.close()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storageTimeout)
	defer cancel()
	return v.s.conf.Storage.Delete(ctx, tokenPlace(v.a, name))
}

type challengeKey struct{ kind, name string }

// challenge returns the challenge of a kind that is on for a name, here or in
// another process of the cluster.
func (s *Source) challenge(ctx context.Context, kind, name string) (acme.Challenge, bool) {
	if c, ok := s.challenges.Load(challengeKey{kind, name}); ok {
		return c.(acme.Challenge), true
	}
	return s.stored(ctx, kind, name)
}

// challengeCertificate answers a validator's handshake. Nil is for strangers,
// who may ask at will.
func (s *Source) challengeCertificate(ctx context.Context, name string) (*tls.Certificate, error) {
	if !slices.Contains(s.methods(), acme.ChallengeTypeTLSALPN01) || s.conf.OnDemand == nil && !s.challengeable(name) {
		return nil, nil
	}
	c, ok := s.challenge(ctx, acme.ChallengeTypeTLSALPN01, name)
	if !ok {
		return nil, nil
	}
	cert, err := acmez.TLSALPN01ChallengeCert(c)
	if err != nil {
		return nil, fmt.Errorf("acme: %w", err)
	}
	return cert, nil
}

// HTTPHandler answers HTTP-01 challenges (RFC 8555, section 8.3) that are on in
// the cluster and passes everything else to next.
func (s *Source) HTTPHandler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if certmagic.LooksLikeHTTPChallenge(r) && slices.Contains(s.methods(), acme.ChallengeTypeHTTP01) {
			if name, ok := s.challengeHost(r.Host); ok {
				if c, ok := s.challenge(r.Context(), acme.ChallengeTypeHTTP01, name); ok && r.URL.Path == c.HTTP01ResourcePath() {
					w.Header().Set("Content-Type", "text/plain")
					fmt.Fprint(w, c.KeyAuthorization)
					return
				}
			}
		}
		next.ServeHTTP(w, r)
	})
}

// challengeHost returns the normal form of a Host that a challenge can be on
// for. Another process of the cluster may be getting one on demand.
func (s *Source) challengeHost(host string) (string, bool) {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	name, ok := normalName(strings.Trim(host, "[]"))
	return name, ok && (s.conf.OnDemand != nil || s.names[name] != nil)
}

// door is a port that validators come to. It is opened while a challenge is on,
// for programs that have no server there yet; where one listens, or something
// forwards to another port, it stays closed.
type door struct {
	port  int
	serve func(*Source, net.Listener) // until the listener closes

	mu    sync.Mutex // guards the rest
	users int
	ln    net.Listener
}

func (d *door) open(s *Source) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.users++
	if d.ln != nil {
		return
	}
	ln, err := net.Listen("tcp", ":"+strconv.Itoa(d.port))
	if err != nil {
		return // somebody else's, who is to answer through HTTPHandler or Certificate
	}
	d.ln = ln
	s.running.Go(func() { d.serve(s, ln) })
}

func (d *door) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.users--; d.users == 0 && d.ln != nil {
		d.ln.Close()
		d.ln = nil
	}
}

const (
	// doorTimeout is how long a validator may take.
	doorTimeout = 10 * time.Second
	// doorGuests is how many may be in a TLS handshake at once.
	doorGuests = 32
)

func serveHTTPDoor(s *Source, ln net.Listener) {
	srv := &http.Server{Handler: s.HTTPHandler(http.NotFoundHandler()), ReadTimeout: doorTimeout, WriteTimeout: doorTimeout}
	srv.Serve(ln)
	srv.Close()
}

func serveTLSDoor(s *Source, ln net.Listener) {
	conf := &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{challengeALPN},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			name, ok := normalName(hello.ServerName)
			if !ok {
				return nil, nil
			}
			return s.challengeCertificate(hello.Context(), name)
		},
	}
	var shaking sync.WaitGroup
	defer shaking.Wait()
	room := make(chan struct{}, doorGuests)
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		room <- struct{}{}
		shaking.Go(func() {
			defer func() { <-room }()
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(doorTimeout))
			tls.Server(conn, conf).HandshakeContext(s.ctx)
		})
	}
}

// reverseOf is reverseName for a name that may be an address; empty if not.
func reverseOf(name string) string {
	ip, err := netip.ParseAddr(name)
	if err != nil {
		return ""
	}
	return reverseName(ip)
}
