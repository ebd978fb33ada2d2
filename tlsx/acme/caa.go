package acme

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/mholt/acmez/v3/acme"
)

// CAA is what the DNS says about who may issue certificates for a name (RFC
// 8659).
type CAA struct {
	Name string
	// Domain is the name at or above Name that has the records. It is empty
	// where none has: then every authority may issue.
	Domain string
	// Records are those of Domain, such as `0 issue "letsencrypt.org"`.
	Records []string
	// Permitted says whether they let the first of the authorities issue to our
	// account by one of the challenges that are on.
	Permitted bool
	// Record is the record to set, in the form of a zone file. It permits that
	// authority, our account there and our challenges only (RFC 8657): somebody
	// who can answer challenges for the name, or has taken over a server, gets
	// no certificate from it under another account.
	Record string
}

// caaRR is one record.
type caaRR struct {
	flags      byte
	tag, value string
}

// String is the record's data in a zone file.
func (r caaRR) String() string {
	return fmt.Sprintf("%d %s %s", r.flags, r.tag, strconv.Quote(r.value))
}

// critical is the flag of a record that an authority must understand.
const caaCritical = 0x80

// CheckCAA looks at the CAA records of all names before the authority does, and
// says which record to set for each. It registers our account at the authority
// if there is none yet, as the record names it. The DNS server is given as
// "host:port"; empty means the first one of the system. IP addresses have no CAA
// records and are left out.
func (s *Source) CheckCAA(ctx context.Context, server string) ([]CAA, error) {
	if server == "" {
		var err error
		if server, err = systemResolver(); err != nil {
			return nil, err
		}
	}
	a := s.authorities[0]
	identities, acct, err := s.caaParty(ctx, a)
	if err != nil {
		return nil, err
	}
	var out []CAA
	for _, name := range s.conf.Names {
		if _, err := netip.ParseAddr(name); err == nil {
			continue
		}
		bare, wild := strings.CutPrefix(name, "*.")
		check := CAA{Name: name, Record: caaRecordFor(name, identities[0], acct.Location, s.methods())}
		var records []caaRR
		for domain := bare; domain != "" && len(records) == 0; _, domain, _ = strings.Cut(domain, ".") {
			if records, err = caaRRs(ctx, server, domain); err != nil {
				return nil, err
			}
			if len(records) > 0 {
				check.Domain = domain
			}
		}
		for _, r := range records {
			check.Records = append(check.Records, r.String())
		}
		check.Permitted = caaPermits(records, wild, identities, acct.Location, s.methods())
		out = append(out, check)
	}
	return out, nil
}

// caaRecord is the record that lets an authority issue to us.
func (s *Source) caaRecord(ctx context.Context, a *authority, name string) (string, error) {
	identities, acct, err := s.caaParty(ctx, a)
	if err != nil {
		return "", err
	}
	return caaRecordFor(name, identities[0], acct.Location, s.methods()), nil
}

// caaParty returns the names of an authority in CAA records, and our account.
func (s *Source) caaParty(ctx context.Context, a *authority) ([]string, acme.Account, error) {
	dir, err := a.client.GetDirectory(ctx)
	if err != nil {
		return nil, acme.Account{}, fmt.Errorf("acme: %s: %w", a.Directory, err)
	}
	if dir.Meta == nil || len(dir.Meta.CAAIdentities) == 0 {
		return nil, acme.Account{}, errors.New("acme: " + a.Directory + " does not say by what name CAA records know it")
	}
	acct, err := a.open(ctx)
	return dir.Meta.CAAIdentities, acct, err
}

// methods are the challenges that are on.
func (s *Source) methods() []string {
	switch c := &s.conf; {
	case c.PersistentDNS != nil:
		return []string{acme.ChallengeTypeDNSPersist01}
	case c.DNS != nil:
		return []string{acme.ChallengeTypeDNS01}
	case c.DisableHTTPChallenge:
		return []string{acme.ChallengeTypeTLSALPN01}
	case c.DisableTLSALPNChallenge:
		return []string{acme.ChallengeTypeHTTP01}
	}
	return []string{acme.ChallengeTypeHTTP01, acme.ChallengeTypeTLSALPN01}
}

func caaRecordFor(name, identity, account string, methods []string) string {
	tag := "issue"
	if bare, wild := strings.CutPrefix(name, "*."); wild {
		name, tag = bare, "issuewild"
	}
	return fmt.Sprintf("%s. IN CAA 0 %s %q", name, tag, identity+"; accounturi="+account+"; validationmethods="+strings.Join(methods, ","))
}

// caaPermits is the decision of RFC 8659, section 3, and RFC 8657, section 4.
func caaPermits(records []caaRR, wild bool, identities []string, account string, methods []string) bool {
	tag := "issue"
	if wild && slices.ContainsFunc(records, func(r caaRR) bool { return r.tag == "issuewild" }) {
		tag = "issuewild"
	}
	var relevant, permitted bool
	for _, r := range records {
		switch r.tag {
		case "issue", "issuewild", "iodef", "contactemail", "contactphone", "issuemail", "issuevmc":
		default:
			if r.flags&caaCritical != 0 {
				return false
			}
		}
		if r.tag != tag {
			continue
		}
		relevant = true
		permitted = permitted || issuePermits(r.value, identities, account, methods)
	}
	return permitted || !relevant
}

// issuePermits is about one issue or issuewild value.
func issuePermits(value string, identities []string, account string, methods []string) bool {
	domain, rest, _ := strings.Cut(value, ";")
	domain = strings.TrimSuffix(strings.TrimSpace(domain), ".")
	if !slices.ContainsFunc(identities, func(id string) bool { return strings.EqualFold(id, domain) }) {
		return false
	}
	for param := range strings.SplitSeq(rest, ";") {
		key, value, _ := strings.Cut(strings.TrimSpace(param), "=")
		switch strings.ToLower(strings.TrimSpace(key)) {
		case "accounturi":
			if strings.TrimSpace(value) != account {
				return false
			}
		case "validationmethods":
			if !slices.ContainsFunc(strings.Split(value, ","), func(m string) bool { return slices.Contains(methods, strings.TrimSpace(m)) }) {
				return false
			}
		}
	}
	return true
}
