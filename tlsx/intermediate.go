package tlsx

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"
)

// issuingFile holds the intermediate that signs at present, and its key.
const issuingFile = "issuing.pem"

// issuing is the intermediate authority of a [CA] that this process signs with.
type issuing struct {
	current atomic.Pointer[authority]
	mu      sync.Mutex // held by the one who replaces it
}

// issuer returns the authority that signs now: the root, or the intermediate in
// the storage. From half of its life on, whoever signs first makes a new one;
// the old stays while that fails and it is valid.
func (ca *CA) issuer(now time.Time) (*authority, error) {
	if ca.intermediate == 0 {
		return ca.root, nil
	}
	if a := ca.issuing.current.Load(); ca.fresh(a, now) {
		return a, nil
	}
	ca.issuing.mu.Lock()
	defer ca.issuing.mu.Unlock()
	old := ca.issuing.current.Load()
	if ca.fresh(old, now) {
		return old, nil
	}
	next, err := ca.agreeIssuer(now)
	if err != nil {
		if old != nil && now.Before(old.cert.NotAfter) {
			ca.logger.Warn("tlsx: internal CA: no new intermediate, the old one stays", "expires", old.cert.NotAfter, "err", err)
			return old, nil
		}
		return nil, err
	}
	ca.issuing.current.Store(next)
	return next, nil
}

// fresh says whether an authority is in the first half of its life, or as close
// to the root's end as one can be.
func (ca *CA) fresh(a *authority, now time.Time) bool {
	if a == nil {
		return false
	}
	end := a.cert.NotAfter
	return end.Sub(now) > end.Sub(a.cert.NotBefore.Add(clockSkew))/2 || end.Equal(ca.root.cert.NotAfter)
}

// agreeIssuer returns the intermediate in the storage, after replacing one that
// is past half of its life. Of several processes that do, one succeeds.
func (ca *CA) agreeIssuer(now time.Time) (*authority, error) {
	ctx, cancel := context.WithTimeout(context.Background(), caStorageTimeout)
	defer cancel()
	for range swapTries {
		data, err := ca.storage.Load(ctx, issuingFile)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err == nil {
			a, err := ca.parseIssuer(data)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", issuingFile, err)
			}
			if ca.fresh(a, now) {
				return a, nil
			}
		}
		next, err := ca.newIssuer(now)
		if err != nil {
			return nil, err
		}
		err = ca.storage.Swap(ctx, issuingFile, data, next)
		if err == nil {
			ca.logger.Info("tlsx: internal CA: made a new intermediate")
			return ca.parseIssuer(next)
		}
		if !errors.Is(err, ErrConflict) {
			return nil, err
		}
	}
	return nil, errAlwaysSecond
}

func (ca *CA) parseIssuer(data []byte) (*authority, error) {
	a, err := parseAuthority(data)
	if err != nil {
		return nil, err
	}
	if err := a.cert.CheckSignatureFrom(ca.root.cert); err != nil {
		return nil, err
	}
	return a, nil
}

// newIssuer returns a new intermediate, certificate and key, in PEM. It repeats
// the root's limits, for verifiers that do not look for them there.
func (ca *CA) newIssuer(now time.Time) ([]byte, error) {
	root := ca.root.cert
	template := &x509.Certificate{
		Subject:                     pkix.Name{CommonName: "issuing " + now.UTC().Format(time.DateTime)},
		NotBefore:                   now.Add(-clockSkew),
		NotAfter:                    now.Add(ca.intermediate),
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid:       true,
		IsCA:                        true,
		MaxPathLenZero:              true,
		URIs:                        root.URIs,
		PermittedDNSDomainsCritical: root.PermittedDNSDomainsCritical,
		PermittedDNSDomains:         root.PermittedDNSDomains,
		ExcludedDNSDomains:          root.ExcludedDNSDomains,
		PermittedIPRanges:           root.PermittedIPRanges,
		ExcludedIPRanges:            root.ExcludedIPRanges,
		PermittedURIDomains:         root.PermittedURIDomains,
	}
	if template.NotAfter.After(root.NotAfter) {
		template.NotAfter = root.NotAfter
	}
	if !template.NotAfter.After(now) {
		return nil, fmt.Errorf("the root expired on %s", root.NotAfter.Format(time.RFC3339))
	}
	return signAuthority(template, ca.root)
}
