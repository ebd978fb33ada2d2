package lbbench

import (
	"time"

	"github.com/palisade-go/palisade/bench/internal/load"
	"github.com/palisade-go/palisade/bench/internal/report"
)

// clients is how many connections are kept alive.
const clients = 64

var (
	latencyColumns = []report.Column{
		{Key: "p50", Title: "p50, µs"}, {Key: "p99", Title: "p99, µs"}, {Key: "p999", Title: "p99.9, µs"},
		{Key: "max", Title: "longest, µs"}, {Key: "cpu", Title: "CPU, µs per request"},
		{Key: "load", Title: "processor used by load and backend, %"},
	}
)

// costColumns compares two of the programs with each.
func costColumns(ours ...string) []report.Column {
	columns := []report.Column{{Key: "cpu", Title: "CPU, µs per request"}}
	for _, name := range ours {
		columns = append(columns, report.Column{Key: name, Title: name + " / it"})
	}
	return append(columns, report.Column{Key: "rate", Title: "requests per second"}, report.Column{Key: "busy", Title: "processor used, %"})
}

// closed is the scenario of a closed loop.
func closed(name, about string, size int, programs, compared []string) scenario {
	return scenario{name: name, about: about, size: size, programs: programs, compared: compared, columns: costColumns(compared...)}
}

func scenarios() []scenario {
	proxies := []string{nginxName, haproxyName, caddyName, httputilName, oursName, oursNethttp}
	ours := []string{oursName, oursNethttp}
	encrypted := closed("tls", "1 KB bodies over 64 connections that are kept alive, TLS 1.3 with AES-128-GCM and a P-256 certificate in front, plain text behind.",
		1<<10, proxies, ours)
	encrypted.tls = true
	return []scenario{
		closed("keepalive", "1 KB bodies over 64 connections that are kept alive, each of which asks again as soon as it is answered.",
			1<<10, proxies, ours),
		closed("body64k", "64 KB bodies over 64 connections that are kept alive.", 64<<10, proxies, ours),
		encrypted,
		closed("chain", "As keepalive, ours and httputil behind three middlewares that read fields, set one and wrap the ResponseWriter; nginx and HAProxy with nothing.",
			1<<10, []string{nginxName, haproxyName, httputilChain, oursChain, oursNethttpChain}, []string{oursChain, oursNethttpChain}),
		closed("meter", "As keepalive, ours with and without the metrics of package qps.",
			1<<10, []string{oursAlone, oursMetered}, []string{oursMetered}),
		{
			name: "latency", about: "1 KB bodies in an open loop at half of nginx's capacity, timed from when each request was due; direct asks the backend.",
			programs: append([]string{directName}, proxies...), columns: latencyColumns, measure: open,
		}, {
			name: "idle", about: "Memory (PSS) that 2,000 connections take which were asked on once and are kept alive; with -quick, 500.",
			programs: proxies, columns: []report.Column{{Key: "kb", Title: "KB per connection"}, {Key: "base", Title: "before, MB"}}, measure: idle,
		}, {
			name: "tcp", about: "A stream through a TCP proxy on four connections; HAProxy splices.",
			programs: []string{nginxName, haproxyName, oursStream}, conf: configData{Stream: true},
			columns: []report.Column{
				{Key: "cpu", Title: "CPU, s per GB"}, {Key: "rate", Title: "GB per second"}, {Key: "busy", Title: "processor used, %"},
			},
			measure: stream,
		},
	}
}

// warm is how long a load runs before it is measured.
func (b *bench) warm() time.Duration { return b.Length / 4 }

// lane asks for bodies over connections that stay.
func (s *scenario) lane(b *bench, p *target) *load.Lane {
	client := load.Client{Addr: p.addr, Size: s.size, Conns: clients}
	start := client.InTurns
	if s.tls {
		start = func() *load.Load { return client.TLSInTurns(b.client) }
	}
	return &load.Lane{Program: p.name, Key: "cpu", Proc: p.proc, Start: start}
}

// values relates the programs that are compared to each, within the round.
func (s *scenario) values(costs load.Costs) map[string]map[string]float64 {
	values := make(map[string]map[string]float64)
	for program, lanes := range costs {
		c := lanes["cpu"]
		v := map[string]float64{"cpu": c.Micros(), "rate": c.Ops / c.Elapsed, "busy": c.Busy()}
		for _, name := range s.compared {
			if ours, ok := costs[name]["cpu"]; ok {
				v[name] = ours.Micros() / c.Micros()
			}
		}
		values[program] = v
	}
	return values
}

// stream measures what a gigabyte costs.
func stream(b *bench, _ *scenario, p *target) (map[string]float64, error) {
	c, err := load.Stream(p.addr, 4).Cost(p.proc, b.warm(), b.Length)
	if err != nil {
		return nil, err
	}
	return map[string]float64{"cpu": c.CPU / c.Ops * 1e9, "rate": c.Ops / c.Elapsed / 1e9, "busy": c.CPU / c.Elapsed * 100}, nil
}

// open measures latency at half of what nginx can do, or half of what the
// backend can, a quarter, if there is no nginx.
func open(b *bench, s *scenario, p *target) (map[string]float64, error) {
	if b.capacity == 0 {
		if err := b.measureCapacity(s); err != nil {
			return nil, err
		}
	}
	var tree []int
	if p.proc != nil {
		var err error
		if tree, err = p.proc.Tree(); err != nil {
			return nil, err
		}
	}
	backend, err := b.backend.Tree()
	if err != nil {
		return nil, err
	}
	cpu0, err := treeCPU(tree)
	if err != nil {
		return nil, err
	}
	load0, err := b.loadCPU(backend)
	if err != nil {
		return nil, err
	}
	begin, length := time.Now(), 2*b.Length
	client := load.Client{Addr: p.addr, Size: 1 << 10, Conns: clients}
	h, err := client.Open(b.capacity/2, b.Seed, b.warm(), length)
	if err != nil {
		return nil, err
	}
	elapsed := time.Since(begin).Seconds()
	cpu1, err := treeCPU(tree)
	if err != nil {
		return nil, err
	}
	load1, err := b.loadCPU(backend)
	if err != nil {
		return nil, err
	}
	micros := func(d time.Duration) float64 { return float64(d) / 1e3 }
	v := map[string]float64{
		"p50": micros(h.Quantile(0.5)), "p99": micros(h.Quantile(0.99)), "p999": micros(h.Quantile(0.999)),
		"max": micros(h.Max()), "load": (load1 - load0) / elapsed * 100,
	}
	if p.proc != nil {
		// The requests of the warm-up are not in h, but their time is in cpu.
		all := float64(h.Count()) * float64(length+b.warm()) / float64(length)
		v["cpu"] = (cpu1 - cpu0) / all * 1e6
	}
	return v, nil
}
