package tlsxbench

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/palisade-go/palisade/bench/internal/load"
	"github.com/palisade-go/palisade/bench/internal/program"
	"github.com/palisade-go/palisade/bench/internal/report"
)

// TestConfigs renders every configuration in every form and looks for what the
// comparison stands on.
func TestConfigs(t *testing.T) {
	const verify, proxy = "ssl_verify_client on;", "proxy_pass"
	for _, c := range []struct {
		name       string
		data       configData
		has, lacks []string
	}{
		{"nginx.conf", configData{},
			[]string{"listen 127.0.0.1:1 ssl", "ssl_certificate_key /c/key.pem;", "TLS_AES_128_GCM_SHA256", "ssl_protocols TLSv1.3;", `return 200 "` + answer + `"`, "worker_processes 1;"},
			[]string{verify, proxy, "user "}},
		{"nginx.conf", configData{Mutual: true, Root: true}, []string{verify, "ssl_client_certificate /c/ca.pem;", "user root;"}, []string{proxy}},
		{"nginx.conf", configData{Backend: "127.0.0.1:2"}, []string{"proxy_pass http://backend", "server 127.0.0.1:2;", "keepalive 128;"}, []string{"proxy_ssl", "return 200"}},
		{"nginx.conf", configData{Backend: "127.0.0.1:2", Encrypt: true}, []string{"proxy_pass https://backend", "proxy_ssl_verify on;", "proxy_ssl_certificate /c/cert.pem;"}, nil},
		{"haproxy.cfg", configData{}, []string{"bind 127.0.0.1:1 ssl crt /c/both.pem backlog", "nbthread 1", "TLS_AES_128_GCM_SHA256", answer}, []string{"verify", "server s"}},
		{"haproxy.cfg", configData{Mutual: true}, []string{"ca-file /c/ca.pem verify required backlog"}, nil},
		{"haproxy.cfg", configData{Backend: "127.0.0.1:2"}, []string{"server s 127.0.0.1:2 pool-max-conn", "http-reuse always"}, []string{"verify", "return"}},
		{"haproxy.cfg", configData{Backend: "127.0.0.1:2", Encrypt: true}, []string{"ssl crt /c/both.pem ca-file /c/ca.pem verify required sni str(bench.example)"}, nil},
		{"caddy.json", configData{}, []string{`"127.0.0.1:1"`, `"certificate": "/c/cert.pem"`, answer}, []string{"client_authentication"}},
		{"caddy.json", configData{Mutual: true}, []string{"require_and_verify", `"/c/ca.pem"`}, nil},
	} {
		c.data.Dir, c.data.Listen, c.data.Name, c.data.Answer = t.TempDir(), "127.0.0.1:1", serverName, answer
		c.data.certFiles = certFiles{"/c/ca.pem", "/c/cert.pem", "/c/key.pem", "/c/both.pem"}
		path, err := c.data.render(c.name)
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(c.name, ".json") && !json.Valid(text) {
			t.Errorf("%s is no JSON:\n%s", c.name, text)
		}
		for _, want := range c.has {
			if !strings.Contains(string(text), want) {
				t.Errorf("%s lacks %q:\n%s", c.name, want, text)
			}
		}
		for _, no := range c.lacks {
			if strings.Contains(string(text), no) {
				t.Errorf("%s has %q:\n%s", c.name, no, text)
			}
		}
	}
	if _, err := (configData{Dir: t.TempDir()}).render("none"); err == nil {
		t.Error("a configuration that does not exist was rendered")
	}
}

func TestCerts(t *testing.T) {
	c, err := newCerts(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, files := range [][2]string{{c.Cert, c.Key}, {c.Both, c.Both}} {
		if _, err := tls.LoadX509KeyPair(files[0], files[1]); err != nil {
			t.Error(err)
		}
	}
	for use, leaf := range map[x509.ExtKeyUsage]*x509.Certificate{x509.ExtKeyUsageServerAuth: c.server.Leaf, x509.ExtKeyUsageClientAuth: c.client.Leaf} {
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: c.pool, KeyUsages: []x509.ExtKeyUsage{use}}); err != nil {
			t.Errorf("%s: %v", leaf.Subject, err)
		}
	}
	if _, err := c.chained.Leaf.Verify(x509.VerifyOptions{Roots: c.pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil || len(c.chained.Certificate) != 2 {
		t.Errorf("the chained certificate needs none of the %d that it is shown with", len(c.chained.Certificate))
	}
	conf := c.clientConfig(c.client)
	if err := conf.VerifyConnection(tls.ConnectionState{PeerCertificates: []*x509.Certificate{c.server.Leaf}}); err != nil {
		t.Error(err)
	}
	if conf.VerifyConnection(tls.ConnectionState{PeerCertificates: []*x509.Certificate{c.client.Leaf}}) == nil {
		t.Error("another server was believed")
	}
}

// TestFlags checks how ours is started.
func TestFlags(t *testing.T) {
	s := front(program.Program{Version: "./x"}, "ours", "-stack", "palisade")
	files := certFiles{"ca", "cert", "key", "both"}
	const always = "-listen l -name n -cert cert -key key -dir d/tickets -stack palisade"
	for _, c := range []struct {
		data configData
		want string
	}{
		{configData{}, always},
		{configData{Mutual: true}, always + " -client-ca ca"},
		{configData{Backend: "b"}, always + " -backend http://b"},
		{configData{Backend: "b", Encrypt: true}, always + " -backend https://b -backend-ca ca"},
	} {
		c.data.Dir, c.data.Listen, c.data.Name, c.data.certFiles = "d", "l", "n", files
		args, err := s.args(s, c.data)
		if got := strings.Join(args, " "); got != c.want || err != nil {
			t.Errorf("the arguments are %q, %v, want %q", got, err, c.want)
		}
	}
	if s.Version != "./x -stack palisade" {
		t.Errorf("the version is %q", s.Version)
	}
	s.Absent = errors.New("gone")
	if _, err := s.start(t.Context(), unix.CPUSet{}, configData{}); err != s.Absent {
		t.Errorf("starting what is absent: %v", err)
	}
}

// TestBackends asks both, and checks that connections and requests are counted,
// and that nobody gets an answer without a certificate.
func TestBackends(t *testing.T) {
	c, err := newCerts(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	b := &bench{certs: c}
	if err := b.startBackends(); err != nil {
		t.Fatal(err)
	}
	defer b.stopBackends()
	for _, to := range []struct {
		back *backend
		url  string
		conf *tls.Config
		ok   bool
	}{
		{b.plain, "http://", nil, true}, {b.secure, "https://", c.clientConfig(c.client), true}, {b.secure, "https://", c.clientConfig(), false},
	} {
		tr := &http.Transport{TLSClientConfig: to.conf}
		conns, requests := to.back.counts()
		for range 3 {
			res, err := (&http.Client{Transport: tr}).Get(to.url + to.back.addr)
			if (err == nil) != to.ok {
				t.Fatalf("%s: %v", to.url, err)
			}
			if err == nil {
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || string(body) != string(load.Body(1<<10)) {
					t.Errorf("%s: %d bytes, %v", to.url, len(body), err)
				}
			}
		}
		tr.CloseIdleConnections()
		if moreConns, moreRequests := to.back.counts(); to.ok && (moreConns-conns != 1 || moreRequests-requests != 3) {
			t.Errorf("%s: %d connections and %d requests, want 1 and 3", to.url, moreConns-conns, moreRequests-requests)
		}
	}
}

// TestTargets checks that each target is of a cell that a scenario fills.
func TestTargets(t *testing.T) {
	var tables report.Tables
	for _, s := range scenarios() {
		var rounds report.Rounds
		for i, p := range s.programs {
			for _, c := range s.columns {
				rounds.Add(p, c.Key, float64(i+1))
			}
		}
		tables = append(tables, report.Table{Scenario: s.name, Columns: s.columns, Rows: rounds.Rows(s.programs)})
	}
	for _, v := range report.Judge(targets(), tables) {
		if v.Result == "not measured" {
			t.Errorf("%s: %s", v.Text, v.Got)
		}
	}
	if n := len(Suite().Scenarios); n != len(scenarios()) || Suite().Name != "tlsx" {
		t.Errorf("the suite is %+v", Suite())
	}
}

// TestValues relates the costs of a round by hand.
func TestValues(t *testing.T) {
	of := func(cpu, ops float64) load.Shared {
		return load.Shared{Cost: load.Cost{CPU: cpu, Ops: ops, Elapsed: 2}, A: 1, B: 2}
	}
	got := handshakeValues(load.Costs{
		oursName: {"full": of(1, 1000), "resumed": of(0.5, 1000)}, bareName: {"full": of(2, 1000)}, nginxName: {"resumed": of(3, 1000)},
	})
	for _, c := range []struct {
		program, key string
		want         float64
	}{
		{oursName, "full", 1000}, {oursName, "resumed", 500}, {oursName, "share", 0.5}, {oursName, "ours", 1}, {oursName, "busy", 50},
		{bareName, "full", 2000}, {bareName, "ours", 0.5}, {nginxName, "resumed", 3000},
	} {
		if v := got[c.program][c.key]; math.Abs(v-c.want) > 1e-9 {
			t.Errorf("%s of %s is %v, want %v", c.key, c.program, v, c.want)
		}
	}
	if len(got[bareName]) != 3 || len(got[nginxName]) != 1 {
		t.Errorf("values of nothing: %v", got)
	}
	requests := requestValues(load.Costs{
		proxyName: {"cpu": of(1, 1000)}, encrypted(proxyName): {"cpu": of(1.5, 1000)}, encrypted(nginxName): {"cpu": of(1, 1)}, haproxyName: {},
	})
	if v := requests[encrypted(proxyName)]; v["tax"] != 1.5 || v["cpu"] != 1500 || v["busy"] != 75 || v["reused"] != 50 {
		t.Errorf("the proxy that encrypts has %v", v)
	}
	if _, ok := requests[encrypted(nginxName)]["tax"]; ok || len(requests) != 3 || len(requests[proxyName]) != 3 {
		t.Errorf("values of nothing: %v", requests)
	}
}
