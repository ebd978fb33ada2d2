package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/palisade-go/palisade/firewall"
)

// explainTo says what becomes of a request that is described in words, and of
// its connection.
func (c *config) explainTo(w io.Writer, fw *firewall.Firewall) error {
	r := c.request
	local, err := netip.ParseAddrPort(c.listen)
	if err == nil { // a name cannot be matched by rules
		r = r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(net.TCPAddrFromAddrPort(local))))
	}
	_, err = fmt.Fprint(w, fw.ExplainConn(c.peer, local), fw.ExplainRequest(r))
	return err
}

// parseRequest reads "GET http://host/path from 192.0.2.1". The port of the
// client may follow its address.
func parseRequest(s string) (*http.Request, netip.AddrPort, error) {
	var peer netip.AddrPort
	words := strings.Fields(s)
	if len(words) != 4 || words[2] != "from" {
		return nil, peer, errors.New("want one such as 'GET http://host/path from 192.0.2.1'")
	}
	u, err := url.Parse(words[1])
	if err != nil || u.Host == "" {
		return nil, peer, fmt.Errorf("URL %q, want one such as http://host/path", words[1])
	}
	if addr, err := netip.ParseAddr(words[3]); err == nil {
		peer = netip.AddrPortFrom(addr, 0)
	} else if peer, err = netip.ParseAddrPort(words[3]); err != nil {
		return nil, peer, fmt.Errorf("client %q, want an address such as 192.0.2.1", words[3])
	}
	r := &http.Request{
		Method: words[0], URL: u, Host: u.Host, RemoteAddr: peer.String(),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: make(http.Header),
	}
	return r, peer, nil
}
