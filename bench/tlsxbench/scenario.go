package tlsxbench

import (
	"crypto/tls"
	"errors"

	"github.com/palisade-go/palisade/bench/internal/load"
	"github.com/palisade-go/palisade/bench/internal/report"
)

const (
	// answer is what every server answers without a backend; cmd/tlsfront has
	// the same.
	answer = "hello, whoever you are"
	// clients is how many make connections at once.
	clients = 8
	// requesters is how many connections to a proxy are kept alive.
	requesters = 32
)

// somewhere stands for the backend in the configuration of a scenario.
const somewhere = "backend"

var handshakeColumns = []report.Column{
	{Key: "full", Title: "full, CPU µs"}, {Key: "resumed", Title: "resumed, CPU µs"},
	{Key: "share", Title: "resumed / full"}, {Key: "ours", Title: oursName + " / it, full"},
	{Key: "busy", Title: "processor used in full, %"},
}

func scenarios() []scenario {
	all := []string{bareName, oursName, wholeName, caddyName, haproxyName, nginxName}
	const about = "A connection over TLS 1.3 to a server with a P-256 certificate, for one small request, with key exchange by "
	const mutual = "; both sides show P-256 certificates"
	const chain = "; both sides show P-256 certificates, the client also that of an intermediate authority"
	nobody := func(*certs) []tls.Certificate { return nil }
	leaf := func(c *certs) []tls.Certificate { return []tls.Certificate{c.client} }
	chained := func(c *certs) []tls.Certificate { return []tls.Certificate{c.chained} }
	return []scenario{
		handshakes("x25519", about+"X25519.", all, tls.X25519, nobody),
		handshakes("p256", about+"P-256.", all, tls.CurveP256, nobody),
		handshakes("mlkem", about+"X25519MLKEM768.", all, tls.X25519MLKEM768, nobody),
		handshakes("mutual-x25519", about+"X25519"+mutual+".", all, tls.X25519, leaf),
		handshakes("mutual-mlkem", about+"X25519MLKEM768"+mutual+".", all, tls.X25519MLKEM768, leaf),
		handshakes("chain-x25519", about+"X25519"+chain+".", all, tls.X25519, chained),
		handshakes("chain-mlkem", about+"X25519MLKEM768"+chain+".", all, tls.X25519MLKEM768, chained),
		{
			name: "reencrypt", about: "1 KB bodies over 32 connections that are kept alive, TLS in front, and behind either plain text or mutual TLS with pooled connections.",
			programs: []string{
				proxyName, encrypted(proxyName), httputilName, encrypted(httputilName),
				haproxyName, encrypted(haproxyName), nginxName, encrypted(nginxName),
			},
			conf: configData{Backend: somewhere},
			columns: []report.Column{
				{Key: "cpu", Title: "CPU, µs per request"}, {Key: "tax", Title: "/ in plain text"}, {Key: "reused", Title: "requests over connections of before, %"},
				{Key: "busy", Title: "processor used, %"},
			},
			prepare: func(*bench, *target) error { return nil },
			loads:   requests,
			values:  requestValues,
		},
	}
}

// handshakes is the scenario of connections with one key exchange, whose clients
// show some certificates.
func handshakes(name, about string, programs []string, curve tls.CurveID, shown func(*certs) []tls.Certificate) scenario {
	loadOf := func(b *bench, p *target, resume bool) load.Handshakes {
		return load.Handshakes{
			Addr: p.proc.Addr, Config: b.certs.clientConfig(shown(b.certs)...), Curve: curve, Resume: resume, Conns: clients, Body: []byte(answer),
		}
	}
	return scenario{
		name: name, about: about, programs: programs, conf: configData{Mutual: shown(new(certs)) != nil}, columns: handshakeColumns,
		prepare: func(b *bench, p *target) error {
			err := loadOf(b, p, true).Try()
			if p.resumes = err == nil; errors.Is(err, load.ErrNotResumed) {
				return nil
			}
			return err
		},
		loads: func(b *bench, p *target) []*load.Lane {
			lanes := []*load.Lane{{Program: p.name, Key: "full", Proc: p.proc, Start: loadOf(b, p, false).InTurns}}
			if p.resumes {
				lanes = append(lanes, &load.Lane{Program: p.name, Key: "resumed", Proc: p.proc, Start: loadOf(b, p, true).InTurns})
			}
			return lanes
		},
		values: handshakeValues,
	}
}

// handshakeValues relates each program to ours and its resumed connections to its
// full ones, within the round.
func handshakeValues(costs load.Costs) map[string]map[string]float64 {
	values := make(map[string]map[string]float64)
	ours, measured := costs[oursName]["full"]
	for program, lanes := range costs {
		v := make(map[string]float64)
		values[program] = v
		full, ok := lanes["full"]
		if ok {
			v["full"], v["busy"] = full.Micros(), full.Busy()
		}
		if ok && measured {
			v["ours"] = ours.Micros() / full.Micros()
		}
		if resumed, resumes := lanes["resumed"]; resumes {
			v["resumed"] = resumed.Micros()
			if ok {
				v["share"] = resumed.Micros() / full.Micros()
			}
		}
	}
	return values
}

// requests asks a proxy over connections that stay, and watches how many
// connections and requests its backend gets.
func requests(b *bench, p *target) []*load.Lane {
	client := load.Client{Addr: p.proc.Addr, Size: 1 << 10, Conns: requesters}
	return []*load.Lane{{
		Program: p.name, Key: "cpu", Proc: p.proc, Watch: p.back.counts,
		Start: func() *load.Load { return client.TLSInTurns(b.certs.clientConfig()) },
	}}
}

// requestValues relates each proxy that encrypts to itself without, within the
// round.
func requestValues(costs load.Costs) map[string]map[string]float64 {
	values := make(map[string]map[string]float64)
	for program, lanes := range costs {
		if c, ok := lanes["cpu"]; ok {
			values[program] = map[string]float64{"cpu": c.Micros(), "busy": c.Busy(), "reused": 100 - 100*float64(c.A)/float64(c.B)}
		}
	}
	for program, v := range values {
		if again, ok := values[encrypted(program)]; ok {
			again["tax"] = again["cpu"] / v["cpu"]
		}
	}
	return values
}
