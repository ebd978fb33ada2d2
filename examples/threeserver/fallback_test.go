package main

import (
	"net"
	"strings"
	"testing"
)

// TestWebFallback takes addresses that no interface has, as 127.0.0.2 is on
// some systems: the defaults move to 127.0.0.1, what was asked for does not.
func TestWebFallback(t *testing.T) {
	a := freeAddresses(t)
	absent := func(addr string) string {
		_, port, _ := net.SplitHostPort(addr)
		return net.JoinHostPort("192.0.2.1", port) // for documentation: nobody has it
	}
	c := config{web1: absent(a.web1), web2: absent(a.web2)}
	m := new(serviceMap)
	lns, err := c.listenWebs(m)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(lns)
	for _, ln := range lns {
		if host, _, _ := net.SplitHostPort(ln.Addr().String()); host != "127.0.0.1" {
			t.Errorf("listens on %s", ln.Addr())
		}
	}
	var printed strings.Builder
	m.print(&printed)
	if !strings.Contains(printed.String(), "192.0.2.1") || !strings.Contains(printed.String(), lns[1].Addr().String()) {
		t.Errorf("the map does not say so:\n%s", printed.String())
	}

	c = config{web1: a.web1, web2: absent(a.web2), web2Set: true}
	if lns, err := c.listenWebs(new(serviceMap)); err == nil || !strings.Contains(err.Error(), "-web2") {
		closeAll(lns)
		t.Errorf("an address that was asked for: %v", err)
	}
	if ln, err := net.Listen("tcp", a.web1); err != nil {
		t.Errorf("the first listener was left open: %v", err)
	} else {
		ln.Close()
	}
}
