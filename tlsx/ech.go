package tlsx

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"
)

// ECH hides the names that clients ask for (Encrypted Client Hello, RFC 9849)
// behind one that everybody may see. It is checked by [New]. It needs TLS 1.3
// and a client that found the configuration, usually in DNS: publish
// [Terminator.ECHConfigList], and do so again in each period.
type ECH struct {
	// PublicName is the name that is sent in the clear. A policy and a
	// certificate have to cover it: clients with an outdated configuration get a
	// new one over a connection that it authenticates. Empty is an error.
	PublicName string
	// Secret is what keys are derived from, at least 32 random bytes: servers
	// with the same one have the same keys. Nil makes one for this Terminator.
	Secret []byte
	// Rotation is how long a key is published; it is accepted for one more
	// period before and after. Longer than the DNS record lives, it loses no
	// client. Zero means 24 hours; less than a second is an error.
	Rotation time.Duration
}

func (e *ECH) validate() error {
	var errs []error
	name, err := normalName(e.PublicName)
	if _, ipErr := netip.ParseAddr(name); err != nil || ipErr == nil || name != e.PublicName {
		errs = append(errs, fmt.Errorf("tlsx: ECH.PublicName is %q, want a host name in lower case", e.PublicName))
	}
	if e.Secret != nil && len(e.Secret) < 32 {
		errs = append(errs, fmt.Errorf("tlsx: ECH.Secret has %d bytes, want at least 32", len(e.Secret)))
	}
	if e.Rotation != 0 && e.Rotation < time.Second {
		errs = append(errs, fmt.Errorf("tlsx: ECH.Rotation is %v, want at least a second", e.Rotation))
	}
	return errors.Join(errs...)
}

// echKeys has the keys of the present period.
type echKeys struct {
	ECH
	current atomic.Pointer[echEpoch]
}

// echEpoch are the keys that are good in a period, its own first. It is
// immutable.
type echEpoch struct {
	number int64
	keys   []tls.EncryptedClientHelloKey
}

// newECHKeys returns nil without ECH.
func newECHKeys(e *ECH) *echKeys {
	if e == nil {
		return nil
	}
	k := &echKeys{ECH: *e}
	k.Secret = slices.Clone(e.Secret)
	if k.Secret == nil {
		k.Secret = make([]byte, 32)
		rand.Read(k.Secret)
	}
	if k.Rotation == 0 {
		k.Rotation = 24 * time.Hour
	}
	return k
}

func (k *echKeys) now() *echEpoch {
	number := time.Now().UnixNano() / int64(k.Rotation)
	e := k.current.Load()
	if e == nil || e.number != number {
		e = &echEpoch{number: number}
		for _, n := range []int64{number, number - 1, number + 1} {
			key := k.key(n)
			key.SendAsRetry = n == number
			e.keys = append(e.keys, key)
		}
		k.current.Store(e) // the same, whoever is first
	}
	return e
}

// key derives that of a period. Its configuration is an ECHConfig of RFC 9849,
// section 4, for X25519, HKDF-SHA256 and AES-128-GCM.
func (k *echKeys) key(number int64) tls.EncryptedClientHelloKey {
	info := binary.BigEndian.AppendUint64([]byte("palisade tlsx ech key"), uint64(number))
	seed, err := hkdf.Key(sha256.New, k.Secret, nil, string(info), 32)
	if err != nil {
		panic("tlsx: hkdf: " + err.Error()) // only for lengths beyond 255 hashes
	}
	private, err := ecdh.X25519().NewPrivateKey(seed)
	if err != nil {
		panic("tlsx: x25519: " + err.Error()) // only for other lengths than 32
	}
	body := []byte{byte(number), 0x00, 0x20}
	body = appendVector16(body, private.PublicKey().Bytes())
	body = appendVector16(body, []byte{0x00, 0x01, 0x00, 0x01})
	// No maximum length: clients pad names to multiples of 32 then. There are no
	// extensions.
	body = append(body, 0, byte(len(k.PublicName)))
	body = append(body, k.PublicName...)
	body = append(body, 0, 0)
	return tls.EncryptedClientHelloKey{Config: appendVector16([]byte{0xfe, 0x0d}, body), PrivateKey: seed}
}

func appendVector16(b, v []byte) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(v))), v...)
}

// apply is for the configuration that decrypts the hello and for the one that it
// is then served under, which tells clients of new keys.
func (k *echKeys) apply(c *tls.Config) {
	if k == nil {
		return
	}
	c.GetEncryptedClientHelloKeys = func(*tls.ClientHelloInfo) ([]tls.EncryptedClientHelloKey, error) {
		return k.now().keys, nil
	}
}

// ECHConfigList returns the configuration of this period, as the "ech" parameter
// of a DNS record of type HTTPS has it (RFC 9848), before base64. It is nil
// without Config.ECH.
func (t *Terminator) ECHConfigList() []byte {
	if t.ech == nil {
		return nil
	}
	return appendVector16(nil, t.ech.now().keys[0].Config)
}
