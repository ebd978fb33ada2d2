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
	{Key: "share", Title: "resumed / full"}, {Key: "busy", Title: "processor used in full, %"},
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
				{Key: "cpu", Title: "CPU, µs per request"}, {Key: "reused", Title: "requests over connections of before, %"},
				{Key: "busy", Title: "processor used, %"},
			},
			prepare: func(*bench, *target) error { return nil },
			measure: reencrypt,
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
		measure: func(b *bench, p *target) (map[string]float64, error) {
			full, err := loadOf(b, p, false).Closed().Cost(p.proc, b.warm(), b.Length)
			if err != nil {
				return nil, err
			}
			v := map[string]float64{"full": full.CPU / full.Ops * 1e6, "busy": full.CPU / full.Elapsed * 100}
			if !p.resumes {
				return v, nil
			}
			resumed, err := loadOf(b, p, true).Closed().Cost(p.proc, b.warm(), b.Length)
			if err != nil {
				return nil, err
			}
			v["resumed"] = resumed.CPU / resumed.Ops * 1e6
			v["share"] = v["resumed"] / v["full"]
			return v, nil
		},
	}
}

// reencrypt measures what a request costs a proxy, and over how many connections
// to the backend they go.
func reencrypt(b *bench, p *target) (map[string]float64, error) {
	client := load.Client{Addr: p.proc.Addr, Size: 1 << 10, Conns: requesters}
	l := client.ClosedTLS(b.certs.clientConfig())
	conns, requests := p.back.counts()
	cost, err := l.Cost(p.proc, b.warm(), b.Length)
	if err != nil {
		return nil, err
	}
	moreConns, moreRequests := p.back.counts()
	return map[string]float64{
		"cpu": cost.CPU / cost.Ops * 1e6, "busy": cost.CPU / cost.Elapsed * 100,
		"reused": 100 - 100*float64(moreConns-conns)/float64(moreRequests-requests),
	}, nil
}
