package lbbench

import "github.com/palisade-go/palisade/bench/internal/report"

// targets are the figures of issue 4, and that of issue 7 which needs a proxy.
func targets() []report.Target {
	const issue, times = "issue 4", "×"
	cpu := func(program string) report.Cell { return report.Cell{Scenario: "tcp", Program: program, Key: "cpu"} }
	// ratio is what one program costs, divided by what another does.
	ratio := func(scenario, program, to string) func(report.Tables) (float64, error) {
		return report.Of(report.Cell{Scenario: scenario, Program: to, Key: program})
	}
	p99 := func(program string) report.Cell {
		return report.Cell{Scenario: "latency", Program: program, Key: "p99"}
	}
	return []report.Target{
		{
			Text: "CPU per request, 1 KB: palisade / HAProxy", Source: issue, Limit: 1, Unit: times,
			Value: ratio("keepalive", oursName, haproxyName),
		}, {
			Text: "CPU per request, 1 KB: palisade / nginx", Source: issue, Limit: 1.1, Unit: times,
			Value: ratio("keepalive", oursName, nginxName),
		}, {
			Text: "CPU per request, 1 KB: palisade / Caddy", Source: issue, Limit: 0.25, Unit: times,
			Value: ratio("keepalive", oursName, caddyName),
		}, {
			Text: "CPU per request behind three middlewares: palisade / HAProxy without", Source: issue, Limit: 1.25, Unit: times,
			Value: ratio("chain", oursChain, haproxyName),
		}, {
			Text: "CPU per request, 64 KB: palisade / HAProxy", Source: issue, Limit: 1.05, Unit: times,
			Value: ratio("body64k", oursName, haproxyName),
		}, {
			Text: "CPU per request, TLS: palisade / HAProxy", Source: issue, Limit: 1.05, Unit: times,
			Value: ratio("tls", oursName, haproxyName),
		}, {
			Text: "CPU per request: palisade with qps Middleware / without", Source: "issue 7", Limit: 1.01, Unit: times,
			Value: ratio("meter", oursMetered, oursAlone),
		}, {
			Text: "CPU per request, 1 KB: palisade, nethttp / httputil, tuned", Source: "issue 3", Limit: 0.55, Unit: times,
			Value: ratio("keepalive", oursNethttp, httputilName),
		}, {
			Text: "memory of an idle connection", Source: issue, Limit: 6, Unit: "KB",
			Value: report.Of(report.Cell{Scenario: "idle", Program: oursName, Key: "kb"}),
		}, {
			Text: "CPU per GB of a TCP stream: palisade tcpproxy / HAProxy with splice", Source: issue, Limit: 1, Unit: times,
			Value: report.Ratio(cpu(oursStream), cpu(haproxyName)),
		}, {
			Text: "p99 added to direct at half of nginx's capacity: palisade / HAProxy", Source: issue, Limit: 1.2, Unit: times,
			Value: report.Above(p99(oursName), p99(haproxyName), p99(directName)),
		},
	}
}
