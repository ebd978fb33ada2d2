package lb

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestCheckMistakes(t *testing.T) {
	_, err := NewPool(PoolConfig{Health: &HealthCheck{Probe: 7, IntervalDown: -1, ExpectBody: strings.Repeat("x", maxProbeBody+1)}})
	for _, want := range []string{"Probe is 7", "IntervalDown is -1ns", "ExpectBody is 65537 bytes long"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error lacks %q:\n%v", want, err)
		}
	}
}

// status of the only backend once it has been checked.
func checkedOnce(t *testing.T, conf PoolConfig, url string) BackendStatus {
	t.Helper()
	conf.Backends = []BackendConfig{{URL: url}}
	p := poolOf(t, conf, 0)
	defer p.Close()
	for range 2000 {
		if s := p.Status()[0]; s.State != Unknown {
			return s
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("not checked")
	return BackendStatus{}
}

func TestWaysToCheck(t *testing.T) {
	body := func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"status": "ready"}`) }
	plain := httptest.NewServer(http.HandlerFunc(body))
	defer plain.Close()
	secure := httptest.NewUnstartedServer(http.HandlerFunc(body))
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	roots := x509.NewCertPool()
	roots.AddCert(secure.Certificate())
	trusts := &tls.Config{RootCAs: roots}
	cut := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "100")
		io.WriteString(w, "half")
	}))
	defer cut.Close()
	for _, c := range []struct {
		name  string
		check HealthCheck
		tls   *tls.Config
		url   string
		want  string // in the error; empty for a good one
	}{
		{"body", HealthCheck{ExpectBody: `"ready"`}, nil, plain.URL, ""},
		{"another body", HealthCheck{ExpectBody: "green"}, nil, plain.URL, `"green" is not in`},
		{"half a body, which has it", HealthCheck{ExpectBody: "half"}, nil, cut.URL, ""},
		{"half a body, which has it not", HealthCheck{ExpectBody: "whole"}, nil, cut.URL, "EOF"},
		{"TCP", HealthCheck{Probe: ProbeTCP}, nil, plain.URL, ""},
		{"TCP, a name that is not the server's", HealthCheck{Probe: ProbeTCP}, &tls.Config{RootCAs: roots, ServerName: "other.test"}, secure.URL, "other.test"},
		{"TCP, nobody", HealthCheck{Probe: ProbeTCP}, nil, "http://" + deadAddr(t), "refused"},
		{"TLS", HealthCheck{Probe: ProbeTCP}, trusts, secure.URL, ""},
		{"TLS, not trusted", HealthCheck{Probe: ProbeTCP}, nil, secure.URL, "certificate"},
		{"func", HealthCheck{Func: func(ctx context.Context, b *Backend) error {
			if _, ok := ctx.Deadline(); !ok || b.URL().String() != plain.URL {
				return errors.New("what is this")
			}
			return nil
		}}, nil, plain.URL, ""},
		{"func that fails", HealthCheck{Func: func(context.Context, *Backend) error { return io.ErrNoProgress }}, nil, plain.URL, io.ErrNoProgress.Error()},
	} {
		s := checkedOnce(t, PoolConfig{Health: &c.check, TLS: c.tls}, c.url)
		if c.want == "" && s.State != Healthy || c.want != "" && (s.State != Unhealthy || !strings.Contains(s.LastError, c.want)) {
			t.Errorf("%s: %+v, want %q", c.name, s, c.want)
		}
	}
}

// TestTCPCheckLeavesNothingBehind: its connection is closed, and the name of one
// backend is not expected of another.
func TestTCPCheckLeavesNothingBehind(t *testing.T) {
	ended := make(chan error, 1)
	addr := rawBackend(t, func(c *conn) {
		_, err := io.Copy(io.Discard, c)
		ended <- err
	})
	p := poolOf(t, PoolConfig{Backends: []BackendConfig{{URL: "http://" + addr}}, Health: &HealthCheck{Probe: ProbeTCP, Interval: time.Hour}, TLS: new(tls.Config)}, 0)
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("the connection ended with %v", err)
		}
	case <-time.After(15 * time.Second):
		t.Error("the connection stays open")
	}
	b := &Backend{url: &url.URL{Scheme: "https", Host: addr}}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := p.checkTCP(ctx, b); err == nil || p.conf.TLS.ServerName != "" {
		t.Errorf("%v, and the pool expects the name %q of all", err, p.conf.TLS.ServerName)
	}
}

func TestIntervalDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := make(network)
		var a, b sick
		b.status.Store(503)
		n.serve(t, addrA, &a)
		n.serve(t, addrB, &b)
		p := checkedPool(t, n, &HealthCheck{Interval: 100 * time.Second, IntervalDown: 10 * time.Second}, nil)
		defer p.Close()
		time.Sleep(99 * time.Second)
		synctest.Wait()
		// The first at once, and then each 10 s, give or take a tenth.
		if up, down := a.checks.Load(), b.checks.Load(); up > 2 || down < 10 || down > 12 {
			t.Errorf("%d checks of the one that is up and %d of the other", up, down)
		}
	})
}
