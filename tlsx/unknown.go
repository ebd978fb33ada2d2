package tlsx

import (
	"errors"
	"fmt"
	"hash/maphash"
	"net"
	"net/netip"
	"sync"
	"time"
)

// UnknownNames bounds what it costs when clients ask for names that no source
// has, of which there are endless ones: sources that decide by asking others
// should not be asked at the pace of a flood. It is checked by [New]. Names that
// the sources had lately, and have not said since that they lack, are served in
// any case. So are TLS-ALPN-01 challenges, as nobody here knows which names an
// authority asks for: what those cost is for the sources to bound, which that of
// tlsx/acme does.
type UnknownNames struct {
	// TTL is how long it is remembered that no source had a name, and the period
	// of the budgets below. Zero means 10 seconds.
	TTL time.Duration
	// Max is how many names are remembered; beyond it the oldest are forgotten
	// early. Each takes some 50 bytes. Zero means 250,000.
	Max int
	// PerClient is how many unknown names a client, which is an IPv4 address or
	// an IPv6 network of 64 bits, may have the sources asked for in a TTL. Zero
	// means 100.
	PerClient int
	// Total is the same for all clients together. Zero means 100,000.
	Total int
}

// ErrUnknownFlood is given to OnReject for a name that the sources are not asked
// for, as a budget of [UnknownNames] is used up. The client gets the alert
// unrecognized_name.
var ErrUnknownFlood = errors.New("tlsx: too many unknown names")

// knownTTL is how long a name that a source had counts as known.
const knownTTL = 24 * time.Hour

func (u *UnknownNames) validate() error {
	if u.TTL < 0 || u.Max < 0 || u.PerClient < 0 || u.Total < 0 {
		return fmt.Errorf("tlsx: UnknownNames is %+v, want nothing negative", *u)
	}
	return nil
}

// unknownNames remembers names by hashes under a secret seed, so that nobody can
// find two with the same.
type unknownNames struct {
	UnknownNames
	seed maphash.Seed

	mu      sync.Mutex // guards the rest
	unknown agingSet
	known   agingSet
	asking  map[uint64]chan struct{} // names that the sources are being asked for; closed when they have answered
	asked   map[netip.Prefix]int     // by clients in this window
	total   int
	window  time.Time // when it began
}

func newUnknownNames(u *UnknownNames) *unknownNames {
	if u == nil {
		return nil
	}
	n := &unknownNames{UnknownNames: *u, seed: maphash.MakeSeed()}
	for _, d := range []struct {
		field *int
		zero  int
	}{{&n.Max, 250_000}, {&n.PerClient, 100}, {&n.Total, 100_000}} {
		if *d.field == 0 {
			*d.field = d.zero
		}
	}
	if n.TTL == 0 {
		n.TTL = 10 * time.Second
	}
	n.unknown, n.known = agingSet{ttl: n.TTL, max: n.Max}, agingSet{ttl: knownTTL, max: n.Max}
	n.asking = make(map[uint64]chan struct{})
	return n
}

// mayAsk says whether the sources may be asked for a name, which is counted
// unless it is known. Whoever may must tell learn what they said. While they are
// being asked for a new name already, it returns what is closed at the end of
// that, after which the caller is to try again: many handshakes at once take one
// decision.
func (n *unknownNames) mayAsk(name string, remote net.Addr, now time.Time) (turn <-chan struct{}, err error) {
	if n == nil {
		return nil, nil
	}
	hash := maphash.String(n.seed, name)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known.has(hash, now) {
		return nil, nil
	}
	if n.unknown.has(hash, now) {
		return nil, ErrUnknownName
	}
	if turn, ok := n.asking[hash]; ok {
		return turn, nil
	}
	if now.Sub(n.window) >= n.TTL {
		n.window, n.asked, n.total = now, make(map[netip.Prefix]int), 0
	}
	client := clientPrefix(remote)
	if n.total >= n.Total || n.asked[client] >= n.PerClient {
		return nil, ErrUnknownFlood
	}
	n.total++ // which bounds the map, too
	n.asked[client]++
	n.asking[hash] = make(chan struct{})
	return nil, nil
}

// answer is what the sources said about a name.
type answer uint8

const (
	answerFailed answer = iota // which says nothing about the name
	answerNone
	answerHad
)

// learn takes note of what the sources said.
func (n *unknownNames) learn(name string, a answer, now time.Time) {
	if n == nil {
		return
	}
	hash := maphash.String(n.seed, name)
	n.mu.Lock()
	defer n.mu.Unlock()
	switch a {
	case answerHad:
		n.known.add(hash, now)
	case answerNone:
		n.known.drop(hash) // it has gone
		n.unknown.add(hash, now)
	}
	if turn, ok := n.asking[hash]; ok {
		close(turn)
		delete(n.asking, hash)
	}
}

// clientPrefix is whom a budget belongs to. Addresses of other kinds share one.
func clientPrefix(a net.Addr) netip.Prefix {
	if a == nil {
		return netip.Prefix{}
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Prefix{}
	}
	ip := ap.Addr().Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// agingSet is a set of at most max hashes that each stay for ttl. It forgets
// half of them at a time, once they are too old or too many.
type agingSet struct {
	ttl       time.Duration
	max       int
	young     map[uint64]int64 // to the end of an entry, in Unix nanoseconds
	old       map[uint64]int64
	youngFrom time.Time
}

func (s *agingSet) has(hash uint64, now time.Time) bool {
	end, ok := s.young[hash]
	if !ok {
		end, ok = s.old[hash]
	}
	return ok && now.UnixNano() < end
}

func (s *agingSet) drop(hash uint64) {
	delete(s.young, hash)
	delete(s.old, hash)
}

func (s *agingSet) add(hash uint64, now time.Time) {
	if s.young == nil || now.Sub(s.youngFrom) >= s.ttl || len(s.young) >= max(1, s.max/2) {
		s.old, s.young, s.youngFrom = s.young, make(map[uint64]int64), now
	}
	s.young[hash] = now.Add(s.ttl).UnixNano()
}
