package qps

import (
	"cmp"
	"errors"
	"fmt"
	"hash/maphash"
	"net/http"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"
)

const (
	mostTop = 100
	// topSlots is how many keys are followed for each one that is told. More
	// make the error smaller: it is the number of events divided by the slots.
	topSlots = 32
)

// TopK finds the most frequent of any number of keys in bounded memory, by the
// algorithm Space-Saving (Metwally, Agrawal and El Abbadi, "Efficient
// Computation of Frequent and Top-k Elements in Data Streams", 2005), and says
// how far off each count may be. [NewTopK] returns it. It is safe for concurrent
// use.
type TopK struct {
	k       int
	seed    maphash.Seed
	picker  picker
	shards  shards[summary]
	earlier TopList // of an earlier process; does not change
}

// NewTopK returns a TopK that tells k keys, 1 to 100. It follows 32 times as
// many on each processor, with 256 bytes of each at most.
func NewTopK(k int) (*TopK, error) {
	if k < 1 || k > mostTop {
		return nil, fmt.Errorf("qps: TopK of %d, want 1 to %d", k, mostTop)
	}
	return &TopK{k: k, seed: maphash.MakeSeed()}, nil
}

// Add counts one event of a key. Of a key longer than 256 bytes the beginning
// counts. It takes a mutex that other processors seldom want.
func (t *TopK) Add(key string) { t.add(t.picker.pick(), key) }

func (t *TopK) add(p place, key string) {
	if key = cut(key); !utf8.ValidString(key) {
		key = label(key)
	}
	hash := maphash.String(t.seed, key)
	s := t.shards.at(p)
	s.mu.Lock()
	s.add(hash, key, t.k*topSlots)
	s.mu.Unlock()
}

// List returns the most frequent keys so far.
func (t *TopK) List() TopList {
	lists := []TopList{t.earlier}
	for s := range t.shards.all() {
		lists = append(lists, s.list(t.k*topSlots))
	}
	return mergeTop(t.k, lists)
}

// TopList is the most frequent keys of a [TopK]. It does not change.
type TopList struct {
	// Total is the number of events of all keys.
	Total uint64 `json:"total"`
	// Rest is the most events that a key which is not in Keys can have.
	Rest uint64 `json:"rest,omitempty"`
	// Keys are the most frequent first.
	Keys []TopKey `json:"keys,omitempty"`
}

// TopKey is a frequent key: it had Count events at most, and Count - Error at
// least.
type TopKey struct {
	Key   string `json:"key"`
	Count uint64 `json:"count"`
	Error uint64 `json:"error,omitempty"`
}

// mergeTop adds lists up. A key that a list does not have may have had as many
// events as its Rest (Agarwal et al., "Mergeable Summaries", 2012).
func mergeTop(k int, lists []TopList) TopList {
	var out TopList
	known := make(map[string]uint64) // Rest of the lists that have the key
	keys := make(map[string]TopKey)
	for _, l := range lists {
		out.Total += l.Total
		out.Rest += l.Rest
		for _, key := range l.Keys {
			have := keys[key.Key]
			keys[key.Key] = TopKey{Key: key.Key, Count: have.Count + key.Count, Error: have.Error + key.Error}
			known[key.Key] += l.Rest
		}
	}
	for _, key := range keys {
		unknown := out.Rest - known[key.Key]
		key.Count += unknown
		key.Error += unknown
		out.Keys = append(out.Keys, key)
	}
	slices.SortFunc(out.Keys, func(a, b TopKey) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), cmp.Compare(a.Key, b.Key))
	})
	if len(out.Keys) > k {
		out.Rest = max(out.Rest, out.Keys[k].Count)
		out.Keys = slices.Clone(out.Keys[:k])
	}
	return out
}

func (l TopList) check() error {
	if len(l.Keys) > mostTop {
		return fmt.Errorf("qps: %d keys, want %d at most", len(l.Keys), mostTop)
	}
	seen := make(map[string]bool, len(l.Keys))
	for _, k := range l.Keys {
		if !isLabel(k.Key) || seen[k.Key] || k.Error > k.Count || k.Count > l.Total {
			return errors.New("qps: a frequent key is no label, is there twice, or has an impossible count")
		}
		seen[k.Key] = true
	}
	return nil
}

// summary is the part of a TopK that belongs to a processor. Its slots are a
// heap with the smallest count first.
type summary struct {
	mu    sync.Mutex
	total uint64
	index map[uint64]int32 // by hash, to the slot
	slots []topSlot
	heap  []int32 // slots
	_     [lineBytes - 72]byte
}

type topSlot struct {
	hash         uint64
	count, error uint64
	at           int32 // in the heap
	key          []byte
}

// add counts a key, or gives it the slot of the rarest, whose count it takes
// over as its error. Keys are copied into buffers that stay: a stream of new
// keys makes no garbage.
func (s *summary) add(hash uint64, key string, limit int) {
	if s.index == nil {
		s.index = make(map[uint64]int32, limit)
	}
	s.total++
	i, ok := s.index[hash]
	switch {
	case ok:
	case len(s.slots) < limit:
		i = int32(len(s.slots))
		s.slots = append(s.slots, topSlot{hash: hash, at: i, key: []byte(key)})
		s.heap = append(s.heap, i)
		s.index[hash] = i
		s.up(i)
	default:
		i = s.heap[0]
		slot := &s.slots[i]
		delete(s.index, slot.hash)
		slot.hash, slot.error, slot.key = hash, slot.count, append(slot.key[:0], key...)
		s.index[hash] = i
	}
	s.slots[i].count++
	s.down(s.slots[i].at)
}

func (s *summary) less(a, b int32) bool { return s.slots[s.heap[a]].count < s.slots[s.heap[b]].count }

func (s *summary) swap(a, b int32) {
	s.heap[a], s.heap[b] = s.heap[b], s.heap[a]
	s.slots[s.heap[a]].at, s.slots[s.heap[b]].at = a, b
}

func (s *summary) up(i int32) {
	for i > 0 && s.less(i, (i-1)/2) {
		s.swap(i, (i-1)/2)
		i = (i - 1) / 2
	}
}

func (s *summary) down(i int32) {
	for {
		child := 2*i + 1
		if child >= int32(len(s.heap)) {
			return
		}
		if child+1 < int32(len(s.heap)) && s.less(child+1, child) {
			child++
		}
		if !s.less(child, i) {
			return
		}
		s.swap(i, child)
		i = child
	}
}

func (s *summary) list(limit int) TopList {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := TopList{Total: s.total}
	for i := range s.slots {
		slot := &s.slots[i]
		l.Keys = append(l.Keys, TopKey{Key: string(slot.key), Count: slot.count, Error: slot.error})
	}
	if len(s.slots) == limit {
		l.Rest = s.slots[s.heap[0]].count
	}
	return l
}

// TopSnapshot is the most frequent of what requests had: paths without their
// query, addresses of clients without their port, and values of User-Agent.
type TopSnapshot struct {
	Paths      TopList `json:"paths"`
	Clients    TopList `json:"clients"`
	UserAgents TopList `json:"user_agents"`
}

// top finds the most frequent paths, clients and user agents.
type top struct{ paths, clients, agents *TopK }

func newTop(k int) (t top, err error) {
	var errs [3]error
	t.paths, errs[0] = NewTopK(k)
	t.clients, errs[1] = NewTopK(k)
	t.agents, errs[2] = NewTopK(k)
	return t, errors.Join(errs[:]...)
}

func (t *top) snapshot() *TopSnapshot {
	return &TopSnapshot{Paths: t.paths.List(), Clients: t.clients.List(), UserAgents: t.agents.List()}
}

func (t *top) count(p place, r *http.Request) {
	path := ""
	if r.URL != nil {
		path = r.URL.Path
	}
	t.paths.add(p, path)
	t.clients.add(p, client(r.RemoteAddr))
	t.agents.add(p, r.UserAgent())
}

// client is an address without its port.
func client(remote string) string {
	if i := strings.LastIndexByte(remote, ':'); i >= 0 {
		remote = remote[:i]
	}
	return strings.Trim(remote, "[]")
}
