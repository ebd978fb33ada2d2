package qps

import "sync/atomic"

// flow is how many requests are in flight, in its low bits, and above them how
// many bytes went out: both change when a request ends, and one atomic write does
// for that. Its zero value works.
type flow struct {
	word    atomic.Uint64
	earlier atomic.Uint64 // bytes that are not in word
}

const (
	// flightBits leave room for 16 million requests in flight.
	flightBits = 24
	flightMask = 1<<flightBits - 1
	// A flow whose highest bit is set, which is after 512 GiB, is emptied. What
	// is added at once is so little that thousands may add before that happens.
	flowFull   = 1 << 63
	mostAtOnce = 1 << 24
)

// begin counts a request in.
func (f *flow) begin() { f.word.Add(1) }

// end counts so many requests out, which is one or none, and what they have sent.
// It returns false if the flow wants to be emptied.
func (f *flow) end(requests, out uint64) (ok bool) {
	if out >= mostAtOnce {
		f.earlier.Add(out)
		out = 0
	}
	return f.word.Add(out<<flightBits-requests)&flowFull == 0
}

// empty makes room for more bytes. Only one may do so at a time, and nobody may
// read meanwhile.
func (f *flow) empty() {
	out := f.word.Load() >> flightBits
	f.word.Add(-out << flightBits)
	f.earlier.Add(out)
}

func (f *flow) read() (requests int64, out uint64) {
	// Bytes that come in between are missed, never counted twice.
	out = f.earlier.Load()
	word := f.word.Load()
	return int64(word & flightMask), out + word>>flightBits
}
