package tlsx

import (
	"crypto/x509"
	"slices"
	"strings"
	"time"
)

// CertInfo describes a certificate that is being served.
type CertInfo struct {
	// Names are the DNS names and IP addresses it covers.
	Names     []string
	Issuer    string
	NotBefore time.Time
	NotAfter  time.Time
	// Renew is when it will be renewed, and WindowStart and WindowEnd the time
	// that its authority suggests for that (RFC 9773). They are zero where that
	// is not known.
	Renew, WindowStart, WindowEnd time.Time
}

// Certificates describes what the sources serve now, for those of them that can
// tell, soonest to expire first.
func (t *Terminator) Certificates() []CertInfo {
	var out []CertInfo
	for _, s := range t.certs {
		lister, ok := s.(interface{ Certificates() []*x509.Certificate })
		if !ok {
			continue
		}
		for _, c := range lister.Certificates() {
			names := slices.Clone(c.DNSNames)
			for _, ip := range c.IPAddresses {
				names = append(names, ip.String())
			}
			info := CertInfo{Names: names, Issuer: c.Issuer.String(), NotBefore: c.NotBefore, NotAfter: c.NotAfter}
			if r, ok := s.(interface {
				Renewal(*x509.Certificate) (at, start, end time.Time)
			}); ok {
				info.Renew, info.WindowStart, info.WindowEnd = r.Renewal(c)
			}
			out = append(out, info)
		}
	}
	slices.SortFunc(out, func(a, b CertInfo) int {
		if c := a.NotAfter.Compare(b.NotAfter); c != 0 {
			return c
		}
		return strings.Compare(strings.Join(a.Names, ","), strings.Join(b.Names, ","))
	})
	return out
}
