package qps

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestLabel(t *testing.T) {
	for in, want := range map[string]string{
		"":                             "",
		"GET /x":                       "GET /x",
		"a\xffb":                       "a\uFFFDb",
		strings.Repeat("a", 256):       strings.Repeat("a", 256),
		strings.Repeat("a", 257):       strings.Repeat("a", 256),
		strings.Repeat("a", 255) + "é": strings.Repeat("a", 255),
		strings.Repeat("a", 254) + "é": strings.Repeat("a", 254) + "é",
		strings.Repeat("€", 100):       strings.Repeat("€", 85),
	} {
		if got := label(in); got != want {
			t.Errorf("label(%q) = %q, want %q", in, got, want)
		}
	}
}

func FuzzLabel(f *testing.F) {
	f.Add(strings.Repeat("\xff", 300))
	f.Add(strings.Repeat("𝄞", 65) + "\xf0\x9d")
	f.Fuzz(func(t *testing.T, s string) {
		got := label(s)
		if !isLabel(got) {
			t.Errorf("label(%q) = %q, %d bytes", s, got, len(got))
		}
		if isLabel(s) && got != s {
			t.Errorf("label(%q) = %q, though it was one", s, got)
		}
		if label(got) != got {
			t.Errorf("label is not idempotent for %q", s)
		}
		if utf8.ValidString(s) && !strings.HasPrefix(s, got) {
			t.Errorf("label(%q) = %q, want a prefix", s, got)
		}
	})
}

func TestMethods(t *testing.T) {
	var names []string
	for _, m := range sortedMethods {
		names = append(names, methodNames[m])
	}
	if !slices.IsSorted(names) || len(slices.Compact(names)) != len(methodNames) {
		t.Errorf("the methods in order are %q", names)
	}
	for i, name := range methodNames {
		if got := methodOf(name); got != method(i) {
			t.Errorf("methodOf(%q) = %d, want %d", name, got, i)
		}
	}
	for _, name := range []string{"", "get", "BREW", strings.Repeat("X", 1<<16)} {
		if got := methodOf(name); got != methodOther {
			t.Errorf("methodOf(%.10q) = %d, want other", name, got)
		}
	}
}

// TestNamesAreBounded is the attack of a client that makes up names: 100,000 of
// them leave as many entries as the limit allows, and nothing else.
func TestNamesAreBounded(t *testing.T) {
	const names, limit = 100_000, 64
	m := newMeter(t, Config{MaxRoutes: limit})
	before := heap()
	for i := range names {
		m.Upstream(fmt.Sprintf("%d%s", i, strings.Repeat("x", 1000))).Observe(1, false)
	}
	// The limit is exhausted with 64 upstreams of one page each.
	if grown := int64(heap()) - int64(before); grown > 1<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
	s := m.Snapshot()
	if len(s.Upstreams) != limit+1 {
		t.Fatalf("%d upstreams, want %d and other", len(s.Upstreams), limit)
	}
	var total uint64
	for _, u := range s.Upstreams {
		total += u.Requests()
		if u.Upstream == other && u.Requests() != names-limit {
			t.Errorf("other has %d, want %d", u.Requests(), names-limit)
		}
	}
	if total != names {
		t.Errorf("%d calls counted, want %d", total, names)
	}
	runtime.KeepAlive(m)
}

func heap() uint64 {
	runtime.GC()
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	return ms.HeapAlloc
}

func TestTableGivesOneEntryPerName(t *testing.T) {
	tab := newTable(2, newMeter(t, Config{}).newRoute)
	long := strings.Repeat("n", 300)
	a, _ := tab.find(long)
	if b, ok := tab.find(long + "beyond the cut"); a != b || !ok {
		t.Error("two names that are cut to one have two entries")
	}
	if e, ok := tab.find(other); e != tab.other || !ok {
		t.Error("the name other is not the entry other")
	}
	b, _ := tab.find("b\xff")
	if e, ok := tab.find("b\uFFFD"); e != b || !ok {
		t.Error("a name and its repaired form have two entries")
	}
	if e, ok := tab.find("c"); e != tab.other || ok {
		t.Error("a name beyond the limit has an entry of its own")
	}
	if e, ok := tab.find("b\xff"); e != b || !ok {
		t.Error("an entry is lost once the table is full")
	}
}
