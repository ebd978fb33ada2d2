package lbbench

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/palisade-go/palisade/bench/internal/load"
	"github.com/palisade-go/palisade/bench/internal/report"
)

// TestConfigs renders every configuration in every form and looks for what the
// comparison stands on.
func TestConfigs(t *testing.T) {
	cert := certFiles{Cert: "/c/cert.pem", Key: "/c/key.pem", Both: "/c/both.pem"}
	for _, c := range []struct {
		name       string
		data       configData
		has, lacks []string
	}{
		{"nginx.conf", configData{},
			[]string{"listen 127.0.0.1:1 backlog", "server 127.0.0.1:2;", "keepalive 128;", "proxy_http_version 1.1;", "worker_processes 1;", "access_log off;"},
			[]string{"ssl", "stream {", "user ", "load_module"}},
		{"nginx.conf", configData{certFiles: cert, Root: true},
			[]string{"listen 127.0.0.1:1 ssl", "ssl_certificate_key /c/key.pem;", "TLS_AES_128_GCM_SHA256", "user root;"}, nil},
		{"nginx.conf", configData{Stream: true, StreamModule: "/m/s.so"},
			[]string{"load_module /m/s.so;", "proxy_pass 127.0.0.1:2;"}, []string{"http"}},
		{"haproxy.cfg", configData{}, []string{"bind 127.0.0.1:1 backlog", "server s 127.0.0.1:2", "nbthread 1", "http-reuse always"}, []string{" ssl crt", "splice"}},
		{"haproxy.cfg", configData{certFiles: cert}, []string{"bind 127.0.0.1:1 ssl crt /c/both.pem", "Proto https"}, nil},
		{"haproxy.cfg", configData{Stream: true}, []string{"mode tcp", "option splice-auto"}, []string{"http-reuse"}},
		{"caddy.json", configData{}, []string{`"127.0.0.1:1"`, `"dial": "127.0.0.1:2"`}, []string{"certificate"}},
		{"caddy.json", configData{certFiles: cert}, []string{`"certificate": "/c/cert.pem"`, "tls_connection_policies"}, nil},
	} {
		c.data.Dir, c.data.Listen, c.data.Backend = t.TempDir(), "127.0.0.1:1", "127.0.0.1:2"
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

func TestStreamModule(t *testing.T) {
	yes, no := func(string) bool { return true }, func(string) bool { return false }
	for _, c := range []struct {
		options string
		exists  func(string) bool
		want    string
		ok      bool
	}{
		{"--prefix=/x --with-stream --with-threads", no, "", true},
		{"--with-stream", no, "", true},
		{"--modules-path=/m --with-stream=dynamic", yes, "/m/ngx_stream_module.so", true},
		{"--modules-path=/m --with-stream=dynamic", no, "", false},
		{"--with-stream=dynamic", yes, "", false},
		{"--with-stream_ssl_module", yes, "", false},
	} {
		got, err := streamModule(c.options, c.exists)
		if got != c.want || (err == nil) != c.ok {
			t.Errorf("streamModule(%q) = %q, %v", c.options, got, err)
		}
	}
}

func TestCert(t *testing.T) {
	f, client, err := newCert(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, files := range [][2]string{{f.Cert, f.Key}, {f.Both, f.Both}} {
		if _, err := tls.LoadX509KeyPair(files[0], files[1]); err != nil {
			t.Error(err)
		}
	}
	if client.RootCAs == nil || client.ServerName != serverName {
		t.Errorf("the client's side is %+v", client)
	}
}

// TestProgramFlags checks how ours are started.
func TestProgramFlags(t *testing.T) {
	r := (&rival{version: "./x"}).as("ours", "-front", "palisade")
	for _, c := range []struct {
		data configData
		want string
	}{
		{configData{Listen: "l", Backend: "b"}, "-front palisade -listen l -backend http://b"},
		{configData{Listen: "l", Backend: "b", Stream: true}, "-front palisade -listen l -backend b"},
		{configData{Listen: "l", Backend: "b", certFiles: certFiles{Cert: "c", Key: "k"}}, "-front palisade -listen l -backend http://b -tls-cert c -tls-key k"},
	} {
		args, err := r.args(r, c.data)
		if got := strings.Join(args, " "); got != c.want || err != nil {
			t.Errorf("the arguments are %q, %v, want %q", got, err, c.want)
		}
	}
	if r.version != "./x -front palisade" {
		t.Errorf("the version is %q", r.version)
	}
	gone := &rival{absent: errors.New("gone")}
	if _, err := gone.as("x").start(t.Context(), unix.CPUSet{}, configData{}); err != gone.absent {
		t.Errorf("starting what is absent: %v", err)
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
	if n := len(Suite().Scenarios); n != len(scenarios()) || Suite().Name != "lb" {
		t.Errorf("the suite is %+v", Suite())
	}
}

// TestValues relates the costs of a round by hand.
func TestValues(t *testing.T) {
	of := func(cpu float64) map[string]load.Shared {
		return map[string]load.Shared{"cpu": {Cost: load.Cost{CPU: cpu, Ops: 1000, Elapsed: 2}}}
	}
	s := closed("x", "", 1, nil, []string{oursName, oursNethttp})
	got := s.values(load.Costs{oursName: of(1), haproxyName: of(2)})
	want := map[string]map[string]float64{
		oursName:    {"cpu": 1000, oursName: 1, "rate": 500, "busy": 50},
		haproxyName: {"cpu": 2000, oursName: 0.5, "rate": 500, "busy": 100},
	}
	if !maps.EqualFunc(got, want, maps.Equal[map[string]float64, map[string]float64]) {
		t.Errorf("the values are %v, want %v", got, want)
	}
}
