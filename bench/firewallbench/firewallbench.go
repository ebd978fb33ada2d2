// Package firewallbench compares what it costs to limit the rate of clients and
// to decide about requests: well-known middlewares and package firewall.
package firewallbench

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"time"

	"github.com/didip/tollbooth/v7"
	"github.com/go-chi/httprate"

	"github.com/palisade-go/palisade/bench/internal/measure"
	"github.com/palisade-go/palisade/bench/internal/report"
	"github.com/palisade-go/palisade/firewall"
)

// Suite is what -run firewall runs.
func Suite() report.Suite {
	return report.Suite{Name: "firewall", Scenarios: []string{"limiter", "policy", "swap"}, Targets: targets(), Run: run}
}

const (
	bareHandler  = "no limit"
	oursLimit    = "palisade Handler with a limit"
	httprateName = "httprate LimitBy address"
	tollboothIP  = "tollbooth, by address"
	oursPolicy   = "palisade Handler, 100,000 prefixes, 50 rules, a limit"
	oursLookup   = "palisade PrefixSet.Contains, 100,000 prefixes"
	oursReplace  = "palisade PrefixSet.Replace, 100,000 prefixes"
)

func run(ctx context.Context, o report.Options, out *report.Section) error {
	out.Programs = append(out.Programs, report.Modules("github.com/go-chi/httprate", "github.com/didip/tollbooth/v7")...)
	for _, s := range []struct {
		name, about string
		operations  func() ([]measure.Operation, error)
	}{
		{"limiter", "To serve an accepted request by a handler that writes 5 bytes to nowhere, behind a limit per client; 1,024 clients.", limiters},
		{"policy", "To serve an accepted request of 1,024 clients, told by X-Forwarded-For, behind a policy that it does not match; and to look up an address.", policies},
	} {
		if !o.Wants(s.name) {
			continue
		}
		ops, err := s.operations()
		if err != nil {
			return err
		}
		table, err := report.MeasureOperations(ctx, o, s.name, s.about, ops)
		out.Tables = append(out.Tables, table)
		if err != nil {
			return err
		}
	}
	if !o.Wants("swap") {
		return nil
	}
	table, err := swap(ctx, o)
	out.Tables = append(out.Tables, table)
	return err
}

// clients is how many addresses ask.
const clients = 1024

// generous is a rate that nobody reaches, so that everything is accepted.
const generous = 1_000_000

// nowhere is a ResponseWriter that keeps nothing; the rivals set fields in it.
type nowhere struct{ header http.Header }

func (n *nowhere) Header() http.Header               { return n.header }
func (n *nowhere) Write(p []byte) (int, error)       { return len(p), nil }
func (n *nowhere) WriteString(s string) (int, error) { return len(s), nil }
func (n *nowhere) WriteHeader(int)                   {}

func hello(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "hello") }

// serving returns an operation that has h serve the request of one client after
// the other, from a place of its own for each thread. With forwarded the client
// is told by X-Forwarded-For.
func serving(name string, h http.Handler, forwarded bool) measure.Operation {
	requests := make([]*http.Request, clients)
	for i := range requests {
		r := httptest.NewRequest(http.MethodGet, "https://www.example.com/articles/17?page=2", nil)
		addr := fmt.Sprintf("203.0.%d.%d", 113+i/256, i%256)
		if r.RemoteAddr = addr + ":4711"; forwarded {
			r.RemoteAddr = "10.0.0.1:4711"
			r.Header.Set("X-Forwarded-For", addr)
		}
		requests[i] = r
	}
	return measure.Operation{Name: name, Prepare: func() func() {
		w := &nowhere{header: make(http.Header)}
		i := rand.Uint32()
		return func() {
			h.ServeHTTP(w, requests[i%clients])
			i++
		}
	}}
}

// named is a middleware around a handler.
type named struct {
	name    string
	handler http.Handler
}

// limited puts the limits that are compared before next.
func limited(next http.Handler) ([]named, error) {
	fw, err := newFirewall(firewall.Config{Policy: firewall.Policy{
		Limits: []firewall.Limit{{ID: "all", Rate: generous, Burst: generous}}, Default: firewall.Accept,
	}})
	if err != nil {
		return nil, err
	}
	booth := tollbooth.NewLimiter(generous, nil)
	booth.SetIPLookups([]string{"RemoteAddr"})
	return []named{
		{bareHandler, next},
		{oursLimit, fw.Handler(next)},
		{httprateName, httprate.LimitBy(generous*60, time.Minute, byAddress)(next)},
		{tollboothIP, tollbooth.LimitHandler(booth, next)},
	}, nil
}

// byAddress is the key by which httprate's documentation tells clients apart that
// are connected directly.
func byAddress(r *http.Request) (string, error) {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	return httprate.CanonicalizeIP(host), err
}

func limiters() ([]measure.Operation, error) {
	handlers, err := limited(http.HandlerFunc(hello))
	var ops []measure.Operation
	for _, h := range handlers {
		ops = append(ops, serving(h.name, h.handler, false))
	}
	return ops, err
}

func newFirewall(c firewall.Config) (*firewall.Firewall, error) {
	c.Logger = slog.New(slog.DiscardHandler)
	return firewall.New(c)
}

// prefixes returns n different prefixes, IPv4 and IPv6 in turn, none of which has
// the clients in it.
func prefixes(n int, seed uint64) []netip.Prefix {
	r := rand.New(rand.NewPCG(seed, 0))
	seen := make(map[netip.Prefix]bool)
	list := make([]netip.Prefix, 0, n)
	for len(list) < n {
		var p netip.Prefix
		if len(list)%2 == 0 {
			p = netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(1 + r.IntN(199)), byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256))}), 18+r.IntN(15))
		} else {
			var b [16]byte
			b[0], b[1] = 0x20, 0x01
			for i := 2; i < 10; i++ {
				b[i] = byte(r.IntN(256))
			}
			p = netip.PrefixFrom(netip.AddrFrom16(b), 32+r.IntN(33))
		}
		if p = p.Masked(); !seen[p] {
			seen[p] = true
			list = append(list, p)
		}
	}
	return list
}

// newPolicy returns a firewall of 50 rules, the first of which is about the set.
func newPolicy(set *firewall.PrefixSet) (*firewall.Firewall, error) {
	policy := firewall.Policy{
		Sets:    map[string]*firewall.PrefixSet{"bad": set},
		Rules:   []firewall.Rule{{ID: "bad", Match: firewall.SourceSet("bad")}},
		Limits:  []firewall.Limit{{ID: "all", Rate: generous, Burst: generous}},
		Default: firewall.Accept,
	}
	for i := len(policy.Rules); i < 50; i++ {
		match := firewall.PathPrefix(fmt.Sprintf("/forbidden%d/", i))
		switch i % 4 {
		case 1:
			match = firewall.All(firewall.Method("DELETE"), firewall.Path(fmt.Sprintf("/item/%d", i)))
		case 2:
			match = firewall.Host(fmt.Sprintf("old%d.example.com", i))
		case 3:
			match = firewall.Header(fmt.Sprintf("X-Scanner-%d", i), "yes")
		}
		policy.Rules = append(policy.Rules, firewall.Rule{ID: fmt.Sprintf("rule%d", i), Match: match})
	}
	return newFirewall(firewall.Config{Policy: policy, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
}

func policies() ([]measure.Operation, error) {
	bare := http.HandlerFunc(hello)
	set, err := firewall.NewPrefixSet(prefixes(100_000, 1)...)
	if err != nil {
		return nil, err
	}
	fw, err := newPolicy(set)
	if err != nil {
		return nil, err
	}
	return []measure.Operation{serving(bareHandler, bare, true), serving(oursPolicy, fw.Handler(bare), true), lookup(set)}, nil
}

// lookup returns an operation that looks for addresses of which few are in the
// set.
func lookup(set *firewall.PrefixSet) measure.Operation {
	addrs := make([]netip.Addr, clients)
	r := rand.New(rand.NewPCG(9, 9))
	for i := range addrs {
		addrs[i] = netip.AddrFrom4([4]byte{byte(r.IntN(224)), byte(r.IntN(256)), byte(r.IntN(256)), byte(r.IntN(256))})
	}
	return measure.Operation{Name: oursLookup, Prepare: func() func() {
		i, found := rand.Uint32(), 0
		return func() {
			if set.Contains(addrs[i%clients]) {
				found++
			}
			i++
		}
	}}
}

// swap measures how long it takes to replace a whole set, which readers see at
// once.
func swap(ctx context.Context, o report.Options) (report.Table, error) {
	table := report.Table{
		Scenario: "swap", About: "To replace a set of 100,000 prefixes by another.",
		Columns: []report.Column{{Key: "cpu", Title: "CPU, ms"}, {Key: "wall", Title: "time, ms"}},
	}
	o.Log("swap: %s", table.About)
	lists := [][]netip.Prefix{prefixes(100_000, 1), prefixes(100_000, 2)}
	set := new(firewall.PrefixSet)
	var rounds report.Rounds
	for i := range 4 * o.Rounds {
		if err := ctx.Err(); err != nil {
			return table, context.Cause(ctx)
		}
		cpu, begin := measure.ProcessCPU(), time.Now()
		if err := set.Replace(lists[i%2]...); err != nil {
			return table, err
		}
		rounds.Add(oursReplace, "wall", float64(time.Since(begin))/1e6)
		rounds.Add(oursReplace, "cpu", float64(measure.ProcessCPU()-cpu)/1e6)
	}
	table.Rows = rounds.Rows([]string{oursReplace})
	o.Log("  CPU %s ms", table.Rows[0].Values["cpu"])
	return table, nil
}

// targets are the figures of issue 5 that this suite can tell.
func targets() []report.Target {
	const issue = "issue 5"
	cell := func(scenario, name, key string) report.Cell {
		return report.Cell{Scenario: scenario, Program: name, Key: key}
	}
	return []report.Target{
		{
			Text: "httprate / a handler with a limit", Source: issue, Limit: 3, AtLeast: true, Unit: "×",
			Value: report.Ratio(cell("limiter", httprateName, "one"), cell("limiter", oursLimit, "one")),
		}, {
			Text: "tollbooth / a handler with a limit", Source: issue, Limit: 8, AtLeast: true, Unit: "×",
			Value: report.Ratio(cell("limiter", tollboothIP, "one"), cell("limiter", oursLimit, "one")),
		}, {
			Text: "policy of 100,000 prefixes, 50 rules, a limit and the client's address", Source: issue, Limit: 500, Unit: "ns",
			Value: report.Of(cell("policy", oursPolicy, "one")),
		}, {
			Text: "allocations of that when it accepts", Source: issue, Limit: 0, Unit: "", Value: report.Of(cell("policy", oursPolicy, "allocs")),
		}, {
			Text: "to look up an address among 100,000 prefixes", Source: issue, Limit: 100, Unit: "ns", Value: report.Of(cell("policy", oursLookup, "one")),
		}, {
			Text: "to replace 100,000 prefixes, CPU", Source: issue, Limit: 30, Unit: "ms", Value: report.Of(cell("swap", oursReplace, "cpu")),
		},
	}
}
