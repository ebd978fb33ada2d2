package acme

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/mholt/acmez/v3/acme"
)

// PersistentDNS says how to prove names by DNS-PERSIST-01
// (draft-ietf-acme-dns-persist): a record that is set once, by whoever runs the
// zone, and says which account at which authority may have certificates. No key
// to the zone is needed afterwards.
type PersistentDNS struct {
	// Resolver, as "host:port", finds the record before the authority is told.
	// Empty means the system's.
	Resolver string
}

// ErrNoRecord is wrapped by the error for a name whose DNS record was not found.
// The message has the record.
var ErrNoRecord = errors.New("acme: DNS record not found")

// persistSolver has nothing to do but to look whether the record is there, so
// that one that is missing does not count as a failure at the authority.
type persistSolver struct {
	s *Source
	a *authority
}

// Present implements acmez.Solver.
func (p *persistSolver) Present(ctx context.Context, c acme.Challenge) error {
	acct, err := p.a.open(ctx)
	if err != nil {
		return err
	}
	if len(c.IssuerDomainNames) == 0 {
		return errors.New("acme: the authority gave no issuer domain name for DNS-PERSIST-01")
	}
	wild := p.s.names["*."+c.Identifier.Value] != nil
	name := c.DNSPersist01TXTRecordName()
	found, err := resolver(p.s.conf.PersistentDNS.Resolver).LookupTXT(ctx, name+".")
	for _, issuer := range c.IssuerDomainNames {
		if slices.ContainsFunc(found, func(s string) bool { return persistPermits(s, issuer, acct.Location, wild, time.Now()) }) {
			return nil
		}
	}
	missing := fmt.Errorf("%w, want %s. IN TXT %q", ErrNoRecord, name, c.DNSPersist01TXTRecordValue(acct, c.IssuerDomainNames[0], wild))
	if dnsErr, ok := errors.AsType[*net.DNSError](err); err != nil && (!ok || !dnsErr.IsNotFound) {
		return fmt.Errorf("%w; the lookup failed: %w", missing, err)
	}
	return missing
}

// CleanUp implements acmez.Solver: the record stays.
func (*persistSolver) CleanUp(context.Context, acme.Challenge) error { return nil }

// persistPermits says whether a record lets an account have certificates.
func persistPermits(record, issuer, account string, wild bool, now time.Time) bool {
	domain, rest, _ := strings.Cut(record, ";")
	if !strings.EqualFold(strings.TrimSpace(domain), issuer) {
		return false
	}
	var accountOK, wildOK bool
	for param := range strings.SplitSeq(rest, ";") {
		key, value, _ := strings.Cut(strings.TrimSpace(param), "=")
		switch strings.ToLower(strings.TrimSpace(key)) {
		case "accounturi":
			accountOK = value == account
		case "policy":
			wildOK = strings.EqualFold(value, "wildcard")
		case "persistuntil":
			var until int64
			if _, err := fmt.Sscan(value, &until); err != nil || now.Unix() > until {
				return false
			}
		}
	}
	return accountOK && (wildOK || !wild)
}

// resolver asks one server, or the system's if that is empty.
func resolver(server string) *net.Resolver {
	if server == "" {
		return net.DefaultResolver
	}
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, server)
	}}
}
