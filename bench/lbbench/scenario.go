package lbbench

import (
	"time"

	"github.com/palisade-go/palisade/bench/internal/load"
	"github.com/palisade-go/palisade/bench/internal/report"
)

// clients is how many connections are kept alive.
const clients = 64

var (
	costColumns = []report.Column{
		{Key: "cpu", Title: "CPU, µs per request"},
		{Key: "rate", Title: "requests per second"},
		{Key: "busy", Title: "processor used, %"},
	}
	latencyColumns = []report.Column{
		{Key: "p50", Title: "p50, µs"}, {Key: "p99", Title: "p99, µs"}, {Key: "p999", Title: "p99.9, µs"},
		{Key: "max", Title: "longest, µs"}, {Key: "cpu", Title: "CPU, µs per request"},
		{Key: "load", Title: "processor used by load and backend, %"},
	}
)

func scenarios() []scenario {
	proxies := []string{nginxName, haproxyName, caddyName, httputilName, oursName, oursNethttp}
	return []scenario{
		{
			name: "keepalive", about: "1 KB bodies over 64 connections that are kept alive, each of which asks again as soon as it is answered.",
			programs: proxies, columns: costColumns, measure: closed(1 << 10),
		}, {
			name: "body64k", about: "64 KB bodies over 64 connections that are kept alive.",
			programs: proxies, columns: costColumns, measure: closed(64 << 10),
		}, {
			name: "tls", about: "1 KB bodies over 64 connections that are kept alive, TLS 1.3 with AES-128-GCM and a P-256 certificate in front, plain text behind.",
			programs: proxies, tls: true, columns: costColumns, measure: closed(1 << 10),
		}, {
			name: "chain", about: "As keepalive, ours and httputil behind three middlewares that read fields, set one and wrap the ResponseWriter; nginx and HAProxy with nothing.",
			programs: []string{nginxName, haproxyName, httputilChain, oursChain, oursNethttpChain}, columns: costColumns, measure: closed(1 << 10),
		}, {
			name: "meter", about: "As keepalive, ours with and without the metrics of package qps.",
			programs: []string{oursAlone, oursMetered}, columns: costColumns, measure: closed(1 << 10),
		}, {
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

// cost measures processor time and work while a load runs.
func (b *bench) cost(p *target, l *load.Load) (cpu, ops, elapsed float64, err error) {
	c, err := l.Cost(p.proc, b.warm(), b.Length)
	return c.CPU, c.Ops, c.Elapsed, err
}

// closed measures what a request costs at full load.
func closed(size int) func(*bench, *scenario, *target) (map[string]float64, error) {
	return func(b *bench, s *scenario, p *target) (map[string]float64, error) {
		client := load.Client{Addr: p.addr, Size: size, Conns: clients}
		var l *load.Load
		if s.tls {
			l = client.ClosedTLS(b.client)
		} else {
			l = client.Closed()
		}
		cpu, ops, elapsed, err := b.cost(p, l)
		if err != nil {
			return nil, err
		}
		return map[string]float64{"cpu": cpu / ops * 1e6, "rate": ops / elapsed, "busy": cpu / elapsed * 100}, nil
	}
}

// stream measures what a gigabyte costs.
func stream(b *bench, _ *scenario, p *target) (map[string]float64, error) {
	cpu, bytes, elapsed, err := b.cost(p, load.Stream(p.addr, 4))
	if err != nil {
		return nil, err
	}
	return map[string]float64{"cpu": cpu / bytes * 1e9, "rate": bytes / elapsed / 1e9, "busy": cpu / elapsed * 100}, nil
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
