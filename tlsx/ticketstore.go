package tlsx

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"time"
)

// SharedTickets lets the Terminators of a cluster resume each other's sessions.
// It is checked by [New].
//
// The secret of each period is made by whoever is first to need it, a period
// ahead, and read by the others before it is used. While the storage fails, the
// next secrets are derived from the last one that all knew: rotation goes on,
// and so does resumption across the cluster. Handshakes never wait for the
// storage, which is asked from a goroutine of a handshake that finds it due, for
// at most five seconds; New waits as long for the first answer.
type SharedTickets struct {
	// Storage is what the servers share. Nil is an error.
	Storage Storage
	// Name is where in the storage. Empty means "ticket-keys".
	Name string
	// Key seals the secrets in the storage with AES-256-GCM: at least 32 random
	// bytes, the same on every server. To change it, change Name too.
	Key []byte
	// Rotation is how long tickets are issued under one key, the same on every
	// server. Zero means 12 hours; less than a second is an error.
	Rotation time.Duration
}

const (
	ticketStoreTimeout = 5 * time.Second
	ticketStoreRetry   = 10 * time.Second // at most
	ticketRingMax      = 8                // secrets in the storage
)

func (s *SharedTickets) validate() error {
	var errs []error
	if s.Storage == nil {
		errs = append(errs, errors.New("tlsx: SharedTickets.Storage is nil, want one"))
	}
	if len(s.Key) < 32 {
		errs = append(errs, fmt.Errorf("tlsx: SharedTickets.Key has %d bytes, want at least 32", len(s.Key)))
	}
	if s.Rotation != 0 && s.Rotation < time.Second {
		errs = append(errs, fmt.Errorf("tlsx: SharedTickets.Rotation is %v, want at least a second", s.Rotation))
	}
	return errors.Join(errs...)
}

// ticketStore is where a Terminator finds the secrets of its cluster.
type ticketStore struct {
	SharedTickets
	aead   cipher.AEAD
	next   atomic.Int64 // when to look again, in Unix nanoseconds
	busy   atomic.Bool  // one looks
	failed atomic.Bool  // at the last look
}

func newTicketStore(s SharedTickets) *ticketStore {
	if s.Name == "" {
		s.Name = "ticket-keys"
	}
	if s.Rotation == 0 {
		s.Rotation = ticketRotation
	}
	return &ticketStore{SharedTickets: s, aead: newSeal(s.Key)}
}

// newSeal returns AES-256-GCM with random nonces, under a key for nothing else.
func newSeal(key []byte) cipher.AEAD {
	derived, err := hkdf.Key(sha256.New, key, nil, "palisade tlsx ticket seal", 32)
	if err != nil {
		panic("tlsx: hkdf: " + err.Error())
	}
	block, err := aes.NewCipher(derived)
	if err != nil {
		panic("tlsx: aes: " + err.Error()) // only for other lengths of key
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic("tlsx: gcm: " + err.Error()) // only for other sizes of block
	}
	return aead
}

// due says whether the caller is the one to look now. The next look is set
// before this one, so that whatever becomes of it another follows.
func (s *ticketStore) due(now time.Time) bool {
	next := s.next.Load()
	return now.UnixNano() >= next && s.next.CompareAndSwap(next, now.Add(s.retry()).UnixNano())
}

func (s *ticketStore) retry() time.Duration { return min(ticketStoreRetry, s.Rotation/10) }

// refresh takes over the secrets of the cluster, and adds those that are
// missing for this period and the next.
func (k *ticketKeys) refresh() {
	s := k.store
	if !s.busy.CompareAndSwap(false, true) {
		return
	}
	defer s.busy.Store(false)
	now := time.Now()
	s.next.Store(now.Add(s.retry()).UnixNano())
	ctx, cancel := context.WithTimeout(context.Background(), ticketStoreTimeout)
	defer cancel()
	number := k.number(now)
	ring, err := s.agree(ctx, number, k.current.Load().ring)
	if err != nil {
		if !s.failed.Swap(true) {
			k.logger.Warn("tlsx: ticket keys cannot be shared for now, rotation goes on without", "name", s.Name, "err", err)
		}
		return
	}
	if s.failed.Swap(false) {
		k.logger.Info("tlsx: ticket keys are shared again", "name", s.Name)
	}
	k.advance(number, ring)
	s.next.Store((number + 1) * int64(s.Rotation))
}

// agree returns the ring in the storage, once it has the secrets of a period and
// the next. Those that somebody stored before win over ours.
func (s *ticketStore) agree(ctx context.Context, number int64, ours ticketRing) (ticketRing, error) {
	for range swapTries {
		sealed, err := s.Storage.Load(ctx, s.Name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		var ring ticketRing
		if err == nil {
			if ring, err = s.open(sealed); err != nil {
				return nil, err
			}
		}
		full, complete := ring.complete(number, ours)
		if complete {
			return ring, nil
		}
		err = s.Storage.Swap(ctx, s.Name, sealed, s.seal(full))
		if err == nil {
			return full, nil
		}
		if !errors.Is(err, ErrConflict) {
			return nil, err
		}
	}
	return nil, errAlwaysSecond
}

// complete returns the ring with the secrets of a period and the next, without
// those that are over, and whether it had both already. The present secret is
// the one in use: the ring's own, or what follows from the last one before, or
// else ours. The next one is new.
func (r ticketRing) complete(number int64, ours ticketRing) (ticketRing, bool) {
	_, hasNow := r.exact(number)
	_, hasNext := r.exact(number + 1)
	if hasNow && hasNext {
		return r, true
	}
	var out ticketRing
	for n := number - 1; n <= number; n++ {
		secret, ok := r.at(n)
		if !ok {
			secret, ok = ours.at(n)
		}
		if ok {
			out = append(out, ticketSecret{n, secret})
		}
	}
	next := ticketSecret{epoch: number + 1}
	if secret, ok := r.exact(number + 1); ok {
		next.secret = secret
	} else {
		rand.Read(next.secret[:])
	}
	out = append(out, next)
	for _, s := range r { // of servers whose clocks are ahead
		if s.epoch > number+1 && len(out) < ticketRingMax {
			out = append(out, s)
		}
	}
	return out, false
}

// ticketSecretSize is that of an encoded secret: eight bytes of epoch before it.
const ticketSecretSize = 8 + 32

// encode is the inverse of parseTicketRing.
func (r ticketRing) encode() []byte {
	out := []byte{1} // version
	for _, s := range r {
		out = binary.BigEndian.AppendUint64(out, uint64(s.epoch))
		out = append(out, s.secret[:]...)
	}
	return out
}

// parseTicketRing reads what encode made, and nothing else.
func parseTicketRing(data []byte) (ticketRing, error) {
	if len(data) < 1+ticketSecretSize || (len(data)-1)%ticketSecretSize != 0 || (len(data)-1)/ticketSecretSize > ticketRingMax || data[0] != 1 {
		return nil, errors.New("tlsx: stored ticket keys have another format")
	}
	var ring ticketRing
	for data = data[1:]; len(data) > 0; data = data[ticketSecretSize:] {
		s := ticketSecret{int64(binary.BigEndian.Uint64(data)), [32]byte(data[8:ticketSecretSize])}
		if len(ring) > 0 && ring[len(ring)-1].epoch >= s.epoch {
			return nil, errors.New("tlsx: stored ticket keys are out of order")
		}
		ring = append(ring, s)
	}
	return ring, nil
}

// seal binds the name: what is stored under one cannot be moved to another.
func (s *ticketStore) seal(r ticketRing) []byte {
	return s.aead.Seal(nil, nil, r.encode(), []byte(s.Name))
}

func (s *ticketStore) open(sealed []byte) (ticketRing, error) {
	plain, err := s.aead.Open(nil, nil, sealed, []byte(s.Name))
	if err != nil {
		return nil, errors.New("tlsx: stored ticket keys are damaged or sealed under another key")
	}
	return parseTicketRing(plain)
}
