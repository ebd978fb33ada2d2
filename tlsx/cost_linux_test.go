package tlsx

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/palisade-go/palisade/internal/memnet"
	"github.com/palisade-go/palisade/internal/testcert"
)

// rusageThread is RUSAGE_THREAD of getrusage(2).
const rusageThread = 1

func cpuOf(b *testing.B, who int) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(who, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// serverCost is the processor time that a server's thread needs for a handshake,
// over some of them.
func serverCost(b *testing.B, server, client *tls.Config, resumed bool) time.Duration {
	b.Helper()
	const handshakes = 20
	ln := memnet.Listen("192.0.2.1:443")
	defer ln.Close()
	cost := make(chan time.Duration, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		before := cpuOf(b, rusageThread)
		for range handshakes {
			raw, err := ln.Accept()
			if err != nil {
				break
			}
			conn := tls.Server(raw, server)
			if conn.Handshake() == nil {
				conn.Write([]byte("x"))
			}
			conn.Close()
		}
		cost <- cpuOf(b, rusageThread) - before
	}()
	for range handshakes {
		raw, err := ln.DialContext(b.Context(), "tcp", "")
		if err != nil {
			b.Fatal(err)
		}
		conn := tls.Client(raw, client)
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			b.Fatal(err)
		}
		if conn.ConnectionState().DidResume != resumed {
			b.Fatalf("resumed %v, want %v", !resumed, resumed)
		}
		conn.Close()
	}
	return <-cost / handshakes
}

// BenchmarkHandshake compares, interleaved, what a handshake costs a server: of
// crypto/tls alone and of a Terminator with its policies, without and with
// certificates of clients, and then of a client that resumes. The ratios are
// medians.
func BenchmarkHandshake(b *testing.B) {
	ca := testcert.NewCA(b)
	leaf := ca.Issue(testcert.Leaf{Names: []string{"www.test", "members.test"}})
	alice := ca.Issue(testcert.Leaf{CommonName: "alice"})
	roots, err := NewRoots(ca.Cert)
	if err != nil {
		b.Fatal(err)
	}
	term, err := New(Config{
		Certs: []CertSource{static(leaf)},
		Policies: []Policy{
			{Names: []string{"www.test", "*.other.test"}},
			{Names: []string{"members.test"}, Client: &ClientAuth{Mode: Required, Roots: roots, Authorize: func(context.Context, *Identity) error { return nil }}},
		},
		Unknown: &UnknownNames{},
	})
	if err != nil {
		b.Fatal(err)
	}
	policy := term.ServerConfig()
	bare := &tls.Config{Certificates: []tls.Certificate{leaf}, NextProtos: []string{"h2", "http/1.1"}}
	bareMutual := bare.Clone()
	bareMutual.ClientAuth, bareMutual.ClientCAs = tls.RequireAndVerifyClientCert, ca.Pool()
	client := func(name string, curves ...tls.CurveID) *tls.Config {
		return &tls.Config{ServerName: name, RootCAs: ca.Pool(), Certificates: []tls.Certificate{alice}, CurvePreferences: curves}
	}
	compare := func(name, ratio string, base, other func(b *testing.B) time.Duration) {
		b.Run(name, func(b *testing.B) {
			var bases, others, ratios []float64
			for b.Loop() {
				x, y := float64(base(b))/1e3, float64(other(b))/1e3
				bases, others, ratios = append(bases, x), append(others, y), append(ratios, y/x)
			}
			b.ReportMetric(median(bases), "base-µs")
			b.ReportMetric(median(others), "µs")
			b.ReportMetric(median(ratios), ratio)
		})
	}
	full := func(server *tls.Config, name string, curves ...tls.CurveID) func(*testing.B) time.Duration {
		return func(b *testing.B) time.Duration { return serverCost(b, server, client(name, curves...), false) }
	}
	resumed := func(curves ...tls.CurveID) func(*testing.B) time.Duration {
		conf := client("members.test", curves...)
		conf.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		shakeOnce(b, policy, conf)
		return func(b *testing.B) time.Duration { return serverCost(b, policy, conf, true) }
	}
	compare("full", "of-bare", full(bare, "www.test"), full(policy, "www.test"))
	compare("mutual", "of-bare", full(bareMutual, "members.test"), full(policy, "members.test"))
	compare("resumed-mutual/X25519MLKEM768", "of-full", full(policy, "members.test"), resumed())
	compare("resumed-mutual/X25519", "of-full", full(policy, "members.test", tls.X25519), resumed(tls.X25519))
}

// shakeOnce fills a client's cache of sessions.
func shakeOnce(b *testing.B, server, client *tls.Config) {
	b.Helper()
	ln := memnet.Listen("192.0.2.1:443")
	srv := &http.Server{Handler: http.NotFoundHandler()}
	go srv.Serve(tls.NewListener(ln, server))
	defer srv.Close()
	raw, err := ln.DialContext(b.Context(), "tcp", "")
	if err != nil {
		b.Fatal(err)
	}
	conn := tls.Client(raw, client)
	defer conn.Close()
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: members.test\r\nConnection: close\r\n\r\n"); err != nil {
		b.Fatal(err)
	}
	if _, err := io.ReadAll(conn); err != nil {
		b.Fatal(err)
	}
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}
