package lb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// TestResolverPauses: how long it is until the next question.
func TestResolverPauses(t *testing.T) {
	fails := errors.New("no answer")
	for _, c := range []struct {
		name string
		ttl  time.Duration // of the answer; -1 for an error
		last time.Duration // TTL before
		was  time.Duration // pause before
		want time.Duration
		ofs  time.Duration // give or take
	}{
		{"an answer", 5 * time.Second, 0, 0, 5 * time.Second, 0},
		{"no TTL", 0, 0, 0, 30 * time.Second, 0},
		{"a short one", time.Microsecond, 0, 0, 100 * time.Millisecond, 0},
		{"a first error", -1, time.Minute, 0, time.Second, 100 * time.Millisecond},
		{"a second", -1, time.Minute, time.Second, 2 * time.Second, 200 * time.Millisecond},
		{"a late one", -1, time.Minute, 50 * time.Second, time.Minute, 6 * time.Second},
		{"with a short TTL", -1, 100 * time.Millisecond, 0, time.Second, 100 * time.Millisecond},
		{"an answer after errors", 7 * time.Second, time.Minute, 8 * time.Second, 7 * time.Second, 0},
	} {
		p := poolOf(t, PoolConfig{}, 0)
		p.conf.Resolver = ResolverFunc(func(context.Context) (Resolution, error) {
			if c.ttl < 0 {
				return Resolution{}, fails
			}
			return Resolution{Backends: []BackendConfig{{URL: "http://a"}}, TTL: c.ttl}, nil
		})
		seen := make(map[time.Duration]bool)
		for range 50 {
			a := asked{pool: p, ttl: c.last, pause: c.was}
			got := a.ask()
			if seen[got] = true; got < c.want-c.ofs || got > c.want+c.ofs {
				t.Errorf("%s: %v, want %v", c.name, got, c.want)
			}
			if c.ttl >= 0 && a.pause != 0 {
				t.Errorf("%s: the pause is still %v", c.name, a.pause)
			}
		}
		if jittered := len(seen) > 1; jittered != (c.ofs > 0) {
			t.Errorf("%s: %d different times", c.name, len(seen))
		}
	}
}

// TestResolverFirstAnswerMayBeEmpty, and takes the place of what there was; and one
// that is made in the same slice as the last is seen to differ.
func TestResolverFirstAnswerMayBeEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		list, n := make([]BackendConfig, 0, 1), 0
		p := poolOf(t, PoolConfig{
			Backends: []BackendConfig{{ID: "first", URL: "http://h"}}, Logger: slog.New(slog.DiscardHandler),
			Resolver: ResolverFunc(func(context.Context) (Resolution, error) {
				if n++; n > 1 {
					list = append(list[:0], BackendConfig{ID: fmt.Sprint(n), URL: "http://h"})
				}
				return Resolution{Backends: list, TTL: time.Second}, nil
			}),
		}, 0)
		defer p.Close()
		for _, want := range []string{"", "2", "3"} {
			synctest.Wait()
			if got := ids(p); got != want {
				t.Errorf("backends %q, want %q", got, want)
			}
			time.Sleep(time.Second)
		}
	})
}

// TestFileOfTheLargestSize is taken; one byte more is not.
func TestFileOfTheLargestSize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "backends.json")
	list := `[{"url": "http://a"}]`
	for _, more := range []int{0, 1} {
		if err := os.WriteFile(path, []byte(list+strings.Repeat(" ", maxFile-len(list)+more)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := (File{Path: path}).Resolve(t.Context()); (err == nil) != (more == 0) {
			t.Errorf("%d bytes more than the most: %v", more, err)
		}
	}
}

// TestInOrder: of what is there twice, the one of the lower priority counts, and of
// those the one of the larger weight.
func TestInOrder(t *testing.T) {
	got := Resolution{Backends: []BackendConfig{
		{URL: "http://b", Weight: 9, Priority: 1}, {URL: "http://a", Weight: 1}, {URL: "http://b", Weight: 2}, {URL: "http://a", Weight: 5}, {URL: "http://b", Weight: 3},
	}}.inOrder().Backends
	if want := []BackendConfig{{URL: "http://a", Weight: 5}, {URL: "http://b", Weight: 3}}; !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// TestSRVSchemeAndManyPriorities: no more than a pool has.
func TestSRVSchemeAndManyPriorities(t *testing.T) {
	n := make(nameServer)
	// As many as fit into a message of the size that resolvers ask for.
	const targets = 18
	for i := range targets {
		n.add("_s._tcp.t.", 30, &dnsmessage.SRVResource{Priority: uint16(1000 * i), Weight: 1, Port: 443, Target: dnsmessage.MustNewName(fmt.Sprintf("h%02d.t.", i))})
	}
	r, err := SRV{Name: "_s._tcp.t.", Scheme: "https", Server: n.serve(t)}.Resolve(t.Context())
	if err != nil || len(r.Backends) != targets {
		t.Fatalf("%+v, %v", r, err)
	}
	for i, b := range r.Backends {
		if want := (BackendConfig{URL: fmt.Sprintf("https://h%02d.t:443", i), Weight: 1, Priority: i}); b != want {
			t.Errorf("%+v, want %+v", b, want)
		}
	}
}

// TestDNSOrder does not depend on the name server's.
func TestDNSOrder(t *testing.T) {
	n := make(nameServer)
	for _, addr := range []string{"192.0.2.3", "192.0.2.1", "192.0.2.2"} {
		n.add("web.test.", 60, &dnsmessage.AResource{A: netip.MustParseAddr(addr).As4()})
	}
	r, err := DNS{URL: "http://web.test.", Server: n.serve(t)}.Resolve(t.Context())
	want := []BackendConfig{{URL: "http://192.0.2.1"}, {URL: "http://192.0.2.2"}, {URL: "http://192.0.2.3"}}
	if err != nil || !reflect.DeepEqual(r.Backends, want) {
		t.Errorf("%+v, %v, want %+v", r.Backends, err, want)
	}
}
