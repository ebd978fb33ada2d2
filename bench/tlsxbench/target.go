package tlsxbench

import "github.com/palisade-go/palisade/bench/internal/report"

// targets are the figures of issue 6.
func targets() []report.Target {
	const issue, times = "issue 6", "×"
	cell := func(scenario, program, key string) report.Cell {
		return report.Cell{Scenario: scenario, Program: program, Key: key}
	}
	full := func(text, scenario, rival string, limit float64) report.Target {
		return report.Target{Text: text, Source: issue, Limit: limit, Unit: times, Value: report.Of(cell(scenario, rival, "ours"))}
	}
	resumed := func(text, scenario, program string) report.Target {
		return report.Target{Text: text, Source: issue, Limit: 0.6, Unit: times, Value: report.Of(cell(scenario, program, "share"))}
	}
	return []report.Target{
		full("full handshake, X25519: the whole policy stack / bare crypto/tls", "x25519", bareName, 1.05),
		full("full handshake, X25519MLKEM768: the whole policy stack / bare crypto/tls", "mlkem", bareName, 1.05),
		full("full mutual handshake, X25519: the whole policy stack / bare crypto/tls", "mutual-x25519", bareName, 1.05),
		full("full handshake, X25519: palisade / Caddy", "x25519", caddyName, 1),
		full("full handshake, X25519: palisade / HAProxy", "x25519", haproxyName, 1),
		full("full handshake, P-256: palisade / Caddy", "p256", caddyName, 1),
		full("full handshake, P-256: palisade / HAProxy", "p256", haproxyName, 1),
		resumed("mutual TLS, X25519: resumed / full", "mutual-x25519", oursName),
		resumed("mutual TLS, X25519MLKEM768: resumed / full", "mutual-mlkem", oursName),
		resumed("mutual TLS behind lb.Server, X25519: resumed / full", "mutual-x25519", wholeName),
		resumed("mutual TLS behind lb.Server, X25519MLKEM768: resumed / full", "mutual-mlkem", wholeName),
		resumed("mutual TLS with an intermediate authority, X25519: resumed / full", "chain-x25519", oursName),
		resumed("mutual TLS with an intermediate authority, X25519MLKEM768: resumed / full", "chain-mlkem", oursName),
		{
			Text: "a request that is encrypted again / in plain text", Source: issue, Limit: 1.1, Unit: times,
			Value: report.Of(cell("reencrypt", encrypted(proxyName), "tax")),
		}, {
			Text: "the same through httputil", Source: issue, Limit: 1.1, Unit: times,
			Value: report.Of(cell("reencrypt", encrypted(httputilName), "tax")),
		}, {
			Text: "requests over pooled connections, encrypted again", Source: issue, Limit: 99, AtLeast: true, Unit: "%",
			Value: report.Of(cell("reencrypt", encrypted(proxyName), "reused")),
		},
	}
}
