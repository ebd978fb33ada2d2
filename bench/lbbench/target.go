package lbbench

import "github.com/palisade-go/palisade/bench/internal/report"

// targets are the figures of issue 4, and that of issue 7 which needs a proxy.
func targets() []report.Target {
	const issue, times = "issue 4", "×"
	cpu := func(scenario, program string) report.Cell {
		return report.Cell{Scenario: scenario, Program: program, Key: "cpu"}
	}
	p99 := func(program string) report.Cell {
		return report.Cell{Scenario: "latency", Program: program, Key: "p99"}
	}
	return []report.Target{
		{
			Text: "CPU per request, 1 KB: palisade / HAProxy", Source: issue, Limit: 1, Unit: times,
			Value: report.Ratio(cpu("keepalive", oursName), cpu("keepalive", haproxyName)),
		}, {
			Text: "CPU per request, 1 KB: palisade / nginx", Source: issue, Limit: 1.1, Unit: times,
			Value: report.Ratio(cpu("keepalive", oursName), cpu("keepalive", nginxName)),
		}, {
			Text: "CPU per request, 1 KB: palisade / Caddy", Source: issue, Limit: 0.25, Unit: times,
			Value: report.Ratio(cpu("keepalive", oursName), cpu("keepalive", caddyName)),
		}, {
			Text: "CPU per request behind three middlewares: palisade / HAProxy without", Source: issue, Limit: 1.25, Unit: times,
			Value: report.Ratio(cpu("chain", oursChain), cpu("chain", haproxyName)),
		}, {
			Text: "CPU per request, 64 KB: palisade / HAProxy", Source: issue, Limit: 1.05, Unit: times,
			Value: report.Ratio(cpu("body64k", oursName), cpu("body64k", haproxyName)),
		}, {
			Text: "CPU per request, TLS: palisade / HAProxy", Source: issue, Limit: 1.05, Unit: times,
			Value: report.Ratio(cpu("tls", oursName), cpu("tls", haproxyName)),
		}, {
			Text: "CPU per request: palisade with qps Middleware / without", Source: "issue 7", Limit: 1.01, Unit: times,
			Value: report.Ratio(cpu("meter", oursMetered), cpu("meter", oursAlone)),
		}, {
			Text: "memory of an idle connection", Source: issue, Limit: 6, Unit: "KB",
			Value: report.Of(report.Cell{Scenario: "idle", Program: oursName, Key: "kb"}),
		}, {
			Text: "CPU per GB of a TCP stream: palisade tcpproxy / HAProxy with splice", Source: issue, Limit: 1, Unit: times,
			Value: report.Ratio(cpu("tcp", oursStream), cpu("tcp", haproxyName)),
		}, {
			Text: "p99 added to direct at half of nginx's capacity: palisade / HAProxy", Source: issue, Limit: 1.2, Unit: times,
			Value: report.Above(p99(oursName), p99(haproxyName), p99(directName)),
		},
	}
}
