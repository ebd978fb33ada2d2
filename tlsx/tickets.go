package tlsx

import (
	"cmp"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ticketRotation is how long session tickets are issued under one key, unless
// [SharedTickets] says otherwise. A key is accepted for one more period, so a
// ticket lives between one and two of them.
const ticketRotation = 12 * time.Hour

// ticketKeys has the secrets from which the keys of every policy are derived.
// Without a store they live in memory only, and end with the process.
type ticketKeys struct {
	rotation time.Duration
	store    *ticketStore // nil: not shared
	logger   *slog.Logger
	current  atomic.Pointer[ticketEpoch]
	mu       sync.Mutex // serialises the changes of current
}

// ticketEpoch is one period of rotation, and the secrets known in it. It never
// changes.
type ticketEpoch struct {
	number int64
	ring   ticketRing
}

// ticketSecret is the secret of a period.
type ticketSecret struct {
	epoch  int64
	secret [32]byte
}

// ticketRing are secrets in the order of their periods. It never changes.
type ticketRing []ticketSecret

// newTicketRing has a secret that every period's is derived from.
func newTicketRing(secret [32]byte) ticketRing {
	return ticketRing{{math.MinInt64, secret}}
}

// exact returns the secret that the ring itself has for a period.
func (r ticketRing) exact(epoch int64) (secret [32]byte, ok bool) {
	i, ok := slices.BinarySearchFunc(r, epoch, func(s ticketSecret, e int64) int { return cmp.Compare(s.epoch, e) })
	if ok {
		secret = r[i].secret
	}
	return secret, ok
}

// at returns the secret of a period. One that the ring lacks is derived from the
// latest before it, so that rotation needs nobody: servers that knew the same
// secret once go on to the same ones, for as long as their storage is out of
// reach. There is none for a period before the first.
func (r ticketRing) at(epoch int64) (secret [32]byte, ok bool) {
	if secret, ok = r.exact(epoch); ok {
		return secret, true
	}
	for _, s := range slices.Backward(r) {
		if s.epoch < epoch {
			return deriveTicket(s.secret, "palisade tlsx ticket epoch", uint64(epoch)), true
		}
	}
	return secret, false
}

func newTicketKeys(shared *SharedTickets, logger *slog.Logger) *ticketKeys {
	k := &ticketKeys{rotation: ticketRotation, logger: logger}
	var secret [32]byte
	rand.Read(secret[:])
	if shared != nil {
		k.store = newTicketStore(*shared)
		k.rotation = k.store.Rotation
	}
	k.current.Store(&ticketEpoch{k.number(time.Now()), newTicketRing(secret)})
	if k.store != nil {
		k.refresh()
	}
	return k
}

func (k *ticketKeys) number(now time.Time) int64 { return now.UnixNano() / int64(k.rotation) }

// now returns the present epoch, the same pointer until something changes.
func (k *ticketKeys) now() *ticketEpoch {
	now := time.Now()
	e := k.current.Load()
	if number := k.number(now); e.number < number {
		e = k.advance(number, nil)
	}
	if k.store != nil && k.store.due(now) {
		go k.refresh()
	}
	return e
}

// advance moves on to a period, or stays in a later one; a ring replaces the
// secrets, nil does not.
func (k *ticketKeys) advance(number int64, ring ticketRing) *ticketEpoch {
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.current.Load()
	if e.number >= number && ring == nil {
		return e
	}
	if ring == nil {
		ring = e.ring
	}
	next := &ticketEpoch{max(number, e.number), ring}
	k.current.Store(next)
	return next
}

// keys returns the keys of a policy under a set of authorities (nil for none) and
// a version of its decisions: first the one to issue with, then those to accept.
// The next one is accepted already, for a server whose clock is ahead.
func (e *ticketEpoch) keys(policy string, roots *Roots, version string) [][32]byte {
	info := binary.BigEndian.AppendUint64([]byte("palisade tlsx ticket key"), uint64(len(policy)))
	info = append(info, policy...)
	if version != "" {
		info = binary.BigEndian.AppendUint64(info, uint64(len(version)))
		info = append(info, version...)
	}
	if roots != nil {
		info = append(info, roots.digest[:]...)
	}
	var out [][32]byte
	for _, n := range []int64{e.number, e.number - 1, e.number + 1} {
		if secret, ok := e.ring.at(n); ok {
			out = append(out, deriveTicket(secret, string(info), uint64(n)))
		}
	}
	return out
}

func deriveTicket(secret [32]byte, label string, number uint64) [32]byte {
	info := binary.BigEndian.AppendUint64([]byte(label), number)
	key, err := hkdf.Key(sha256.New, secret[:], nil, string(info), 32)
	if err != nil {
		panic("tlsx: hkdf: " + err.Error()) // only for lengths beyond 255 hashes
	}
	return [32]byte(key)
}
