package main

import (
	"crypto/tls"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestIntruderIsShutOut asks the running edge for what is inside, from an address
// of its own, until it is banned; others are not, and the ban outlives a restart.
func TestIntruderIsShutOut(t *testing.T) {
	a := freeAddresses(t)
	state := t.TempDir()
	flags := append(a.flags("-db", "embedded"), "-state", state)
	p := start(t, flags...)
	intruder := clientFrom(t, p, "127.0.0.9")
	ask := func(c *http.Client, path string) int {
		res, err := c.Get("https://" + a.https + path)
		if err != nil {
			return 0
		}
		res.Body.Close()
		return res.StatusCode
	}
	if got := ask(intruder, "/"); got != http.StatusOK {
		t.Fatalf("before: status %d", got)
	}
	for i := range 49 {
		if got := ask(intruder, "/x/..;/%2d/snapshot"); got != http.StatusForbidden {
			t.Fatalf("request %d: status %d", i, got)
		}
	}
	if got := ask(intruder, "/"); got != http.StatusOK {
		t.Fatalf("after 49: status %d", got)
	}
	ask(intruder, "/-/snapshot") // its answer may be cut off
	if got := ask(intruder, "/"); got != 0 {
		t.Errorf("after 50: status %d, want no connection", got)
	}
	if got := ask(clientFrom(t, p, "127.0.0.1"), "/"); got != http.StatusOK {
		t.Errorf("another client: status %d", got)
	}
	p.interrupt()
	if code := p.wait(time.Minute); code != 0 {
		t.Errorf("status %d", code)
	}
	if text, err := os.ReadFile(filepath.Join(state, "bans.json")); err != nil || !strings.Contains(string(text), "127.0.0.9/32") {
		t.Fatalf("bans %s, %v", text, err)
	}
	p = start(t, flags...)
	if got := ask(clientFrom(t, p, "127.0.0.9"), "/"); got != 0 {
		t.Errorf("after a restart: status %d, want no connection", got)
	}
}

// clientFrom is a client at an address of this machine.
func clientFrom(t *testing.T, p *process, addr string) *http.Client {
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(addr)}}
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: p.caPool()},
		DialContext:     dialer.DialContext,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func TestPolicies(t *testing.T) {
	if _, err := parsePolicy("x", "drop a if nonsense"); err == nil || !strings.HasPrefix(err.Error(), "x: firewall: line 1") {
		t.Errorf("error %v", err)
	}
}
