package tlsx

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"sync/atomic"
	"time"
)

// ticketRotation is how long session tickets are issued under one key. A key is
// accepted for one more period, so a ticket lives between one and two of them.
const ticketRotation = 12 * time.Hour

// ticketKeys is the secret from which the keys of every policy are derived. It
// lives in memory only, so the keys of a process end with it.
type ticketKeys struct {
	secret  [32]byte
	current atomic.Pointer[ticketEpoch]
}

// ticketEpoch is one period of [ticketRotation].
type ticketEpoch struct {
	of     *ticketKeys
	number int64
}

func newTicketKeys(secret [32]byte) *ticketKeys { return &ticketKeys{secret: secret} }

// now returns the present epoch, the same pointer throughout it.
func (k *ticketKeys) now() *ticketEpoch {
	number := time.Now().UnixNano() / int64(ticketRotation)
	e := k.current.Load()
	for e == nil || e.number < number {
		next := &ticketEpoch{k, number}
		if k.current.CompareAndSwap(e, next) {
			return next
		}
		e = k.current.Load()
	}
	return e
}

// keys returns the keys of a policy under a set of authorities (nil for none):
// first the one to issue with, then those to accept. The next one is accepted
// already, for a clock that is a little behind.
func (e *ticketEpoch) keys(policy string, roots *Roots) [][32]byte {
	var out [][32]byte
	for _, n := range []int64{e.number, e.number - 1, e.number + 1} {
		info := binary.BigEndian.AppendUint64([]byte("palisade tlsx ticket key"), uint64(len(policy)))
		info = append(info, policy...)
		if roots != nil {
			info = append(info, roots.digest[:]...)
		}
		info = binary.BigEndian.AppendUint64(info, uint64(n))
		key, err := hkdf.Key(sha256.New, e.of.secret[:], nil, string(info), 32)
		if err != nil {
			panic("tlsx: hkdf: " + err.Error()) // only for lengths beyond 255 hashes
		}
		out = append(out, [32]byte(key))
	}
	return out
}
