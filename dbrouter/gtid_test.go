package dbrouter

import (
	"maps"
	"strconv"
	"strings"
	"testing"
)

func TestCovers(t *testing.T) {
	for _, c := range []struct {
		have, want string
		is         bool
	}{
		{"0-1-5", "0-1-5", true},
		{"0-1-6", "0-1-5", true},
		{"0-2-6", "0-1-5", true}, // the domain counts, not the server
		{"0-1-4", "0-1-5", false},
		{"", "0-1-5", false},
		{"0-1-10", "0-1-9", true}, // numbers, not texts
		{"1-1-9", "0-1-5", false},
		{"0-1-9,1-1-9", "1-1-9,0-1-9", true},
		{"0-1-9", "0-1-9,1-1-1", false},
		{"0-1-9", "", false},
		{"0-1-9", "0-1-9,", false},
		{"0-1-x", "0-1-9", false},
		{"0-1-9", "0-1-99999999999999999999", false},
		{parts(mariaDB, maxDomains), parts(mariaDB, maxDomains), true},
		{parts(mariaDB, maxDomains) + ",1-1-1", "1-1-1", false}, // looked through no further
		{"0-1-9", strings.Repeat("0-1-9,", maxDomains) + "0-1-9", false},
	} {
		if got := covers(c.have, c.want); got != c.is {
			t.Errorf("covers(%q, %q) is %v", c.have, c.want, got)
		}
	}
}

// positionMap is the naive model: the sequence number by domain, nil for what
// is no position.
func positionMap(s string) map[uint64]uint64 {
	out := make(map[uint64]uint64)
	for e := range strings.SplitSeq(s, ",") {
		f := strings.Split(e, "-")
		if len(f) != 3 {
			return nil
		}
		domain, err1 := strconv.ParseUint(f[0], 10, 32)
		_, err2 := strconv.ParseUint(f[1], 10, 32)
		sequence, err3 := strconv.ParseUint(f[2], 10, 64)
		if _, twice := out[domain]; twice || err1 != nil || err2 != nil || err3 != nil {
			return nil
		}
		out[domain] = sequence
	}
	return out
}

func FuzzCovers(f *testing.F) {
	f.Add("0-1-5,1-1-7", "0-1-5")
	f.Add("0-1-5", "0-1-5,2-3-4")
	f.Fuzz(func(t *testing.T, have, want string) {
		got := covers(have, want)
		h, w := positionMap(have), positionMap(want)
		if w == nil || h == nil {
			return // malformed, or a domain twice: only must not panic
		}
		model := len(w) <= maxDomains && len(h) <= maxDomains
		for domain := range maps.Keys(w) {
			sequence, ok := h[domain]
			model = model && ok && sequence >= w[domain]
		}
		if got != model {
			t.Errorf("covers(%q, %q) is %v, want %v", have, want, got, model)
		}
	})
}

func FuzzCleanPosition(f *testing.F) {
	f.Add("0-1-5,1-1-7")
	f.Add("3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5:7,\n4e11fa47-71ca-11e1-9e33-c80aa9429562:tag:1-3")
	f.Add("'); DROP TABLE t; -- ")
	f.Fuzz(func(t *testing.T, s string) {
		clean, err := cleanPosition(s)
		if err != nil {
			return
		}
		// It must not be able to leave the quotes that it is put in.
		if strings.ContainsAny(clean, "'\"\\`;()\x00\n") {
			t.Errorf("%q became %q", s, clean)
		}
		if clean != strings.ReplaceAll(s, "\n", "") {
			t.Errorf("%q became %q", s, clean)
		}
	})
}
