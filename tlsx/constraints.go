package tlsx

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
)

// constraints are the domains and address ranges that an authority may certify.
type constraints struct {
	domains []string
	ranges  []*net.IPNet
}

// parseConstraints tells addresses from domains, or lists everything that is
// neither.
func parseConstraints(limits []string) (constraints, error) {
	var out constraints
	var errs []error
	for _, s := range limits {
		if strings.Contains(s, "/") {
			p, err := netip.ParsePrefix(s)
			if err != nil || p != p.Masked() {
				errs = append(errs, fmt.Errorf("tlsx: CAConfig.Constrain has %q, want a range without bits beyond its length", s))
				continue
			}
			out.ranges = append(out.ranges, &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())})
			continue
		}
		name, err := normalName(s)
		if _, ipErr := netip.ParseAddr(name); err != nil || ipErr == nil {
			errs = append(errs, fmt.Errorf("tlsx: CAConfig.Constrain has %q, want a domain or an address range", s))
			continue
		}
		out.domains = append(out.domains, name)
	}
	return out, errors.Join(errs...)
}

// apply limits a certificate. A kind of name of which nothing is permitted has
// no limit in X.509, so all of it is excluded.
func (c constraints) apply(cert *x509.Certificate, trustDomain string) {
	cert.PermittedDNSDomainsCritical = true // all of them, despite its name
	cert.PermittedURIDomains = []string{trustDomain}
	cert.PermittedDNSDomains, cert.PermittedIPRanges = c.domains, c.ranges
	if len(c.domains) == 0 {
		cert.ExcludedDNSDomains = []string{""}
	}
	if len(c.ranges) == 0 {
		cert.ExcludedIPRanges = []*net.IPNet{
			{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)},
			{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)},
		}
	}
}
