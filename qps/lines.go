package qps

import (
	"bytes"
	"slices"
	"strconv"
)

// lines are the samples of one route, family by family.
type lines struct {
	text []byte
	ends [routeFamilyCount]int
	// Where each number begins, and how long it is.
	begin [lineCount]int32
	width [lineCount]uint8
}

// The lines of a route, which are in this order.
const (
	lineInFlight = int(classCount) + iota
	lineIn
	lineOut
	linePeak
	lineLate
	lineUpTo
	lineSum   = lineUpTo + len(bounds) + 1
	lineCount = lineSum + 2
)

func (l *lines) family(i int) []byte {
	begin := 0
	if i > 0 {
		begin = l.ends[i-1]
	}
	return l.text[begin:l.ends[i]]
}

// render writes all lines.
func (l *lines) render(f *figures, t *tails) {
	l.text = l.text[:0]
	for i := range routeFamilies {
		l.text = f.append(l.text, i, t)
		l.ends[i] = len(l.text)
	}
	end := 0
	for i := range l.begin {
		end += bytes.IndexByte(l.text[end:], '\n')
		l.begin[i] = int32(bytes.LastIndexByte(l.text[:end], ' ') + 1)
		l.width[i] = uint8(end - int(l.begin[i]))
		end++
	}
}

func (l *lines) clone() *lines {
	other := *l
	other.text = bytes.Clone(l.text)
	return &other
}

// update writes the numbers that are others now.
func (l *lines) update(old, now *figures) {
	before, after := old.numbers(), now.numbers()
	var scratch [32]byte
	for i, n := range after {
		switch {
		case n == before[i]:
		case i == lineSum:
			l.set(i, appendSeconds(scratch[:0], n))
		default:
			l.set(i, strconv.AppendUint(scratch[:0], n, 10))
		}
	}
}

// numbers are those of all lines. In flight is never less than nothing.
func (f *figures) numbers() (all [lineCount]uint64) {
	copy(all[:], f.counts[:])
	all[lineInFlight], all[lineIn], all[lineOut] = uint64(f.inFlight), f.in, f.out
	all[linePeak], all[lineLate] = f.peak, f.late
	copy(all[lineUpTo:], f.upTo[:])
	all[lineSum], all[lineSum+1] = f.sum, f.upTo[len(bounds)]
	return all
}

// set writes a number in the place of the one that is there. One that is longer or
// shorter moves what comes after it.
func (l *lines) set(i int, digits []byte) {
	begin, width := int(l.begin[i]), int(l.width[i])
	if len(digits) == width {
		copy(l.text[begin:], digits)
		return
	}
	l.text = slices.Replace(l.text, begin, begin+width, digits...)
	more := len(digits) - width
	l.width[i] = uint8(len(digits))
	for j := i + 1; j < len(l.begin); j++ {
		l.begin[j] += int32(more)
	}
	for j, end := range l.ends {
		if end > begin {
			l.ends[j] = end + more
		}
	}
}
