package main

import (
	"crypto/tls"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/palisade-go/palisade/internal/pebbletest"
)

// TestACME gets the edge's certificate from a real ACME server, which
// validates over the stack's own doors.
func TestACME(t *testing.T) {
	a := freeAddresses(t)
	pebble := pebbletest.Start(t, pebbletest.Config{HTTPPort: port(t, a.http), TLSPort: port(t, a.https)})
	const name = "notes.example.com"
	state := t.TempDir()
	p := start(t, a.flags("-db", "embedded", "-state", state, "-domain", name,
		"-acme-directory", pebble.Directory, "-acme-ca", pebble.CAFile, "-acme-email", "test@example.com")...)
	if !strings.Contains(p.output(), "--resolve "+name) {
		t.Error("the printed curl lines do not say how to resolve the name")
	}
	conn, err := tls.Dial("tcp", a.https, &tls.Config{RootCAs: pebble.Roots(t), ServerName: name})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if conn, err := tls.Dial("tcp", a.https, &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"}); err == nil {
		conn.Close()
		t.Error("a name that was not ordered got a certificate")
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pebble.Roots(t), ServerName: name}}
	defer tr.CloseIdleConnections()
	req := newGet(t, "https://"+a.https+"/healthz")
	req.Host = name
	res, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if status, _, body := read(t, res); status != http.StatusOK {
		t.Errorf("status %d: %s", status, body)
	}
}

func port(t *testing.T, addr string) int {
	t.Helper()
	_, p, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(p)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
