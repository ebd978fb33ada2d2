package main

import (
	"context"
	_ "embed" // the policies
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/palisade-go/palisade/firewall"
	"github.com/palisade-go/palisade/tlsx"
)

//go:embed edge.fw
var edgePolicy string

//go:embed web.fw
var webPolicy string

// edgeFirewall keeps what is inside from those outside, and one client from
// taking everybody's share. Its bans are kept with the rest of the state.
func (c *config) edgeFirewall(s *stack) (*firewall.Firewall, error) {
	policy, err := parsePolicy("edge.fw", edgePolicy,
		"RATE", strconv.FormatFloat(float64(c.rate), 'g', -1, 64), "BURST", strconv.Itoa(c.burst))
	if err != nil {
		return nil, err
	}
	fw, err := firewall.New(firewall.Config{Policy: policy})
	if err != nil {
		return nil, err
	}
	bans := filepath.Join(c.state, "bans.json")
	if err := fw.LoadBans(bans); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("-state: %w", err)
	}
	s.onStop("bans", func(context.Context) error { return fw.SaveBans(bans) })
	return fw, nil
}

// firewall lets the balancer reach the app, the monitor reach what is inside,
// and nobody anything else.
func (w *webServer) firewall() (*firewall.Firewall, error) {
	policy, err := parsePolicy("web.fw", webPolicy, "MONITOR", w.ca.Identity(monitorID), "BALANCER", w.ca.Identity(balancerID))
	if err != nil {
		return nil, err
	}
	return firewall.New(firewall.Config{
		Policy: policy,
		Identity: func(r *http.Request) string {
			id, ok := tlsx.PeerIdentity(r)
			if !ok || len(id.URIs) != 1 {
				return ""
			}
			return id.URIs[0]
		},
	})
}

// parsePolicy reads a policy in which some words stand for others.
func parsePolicy(name, text string, words ...string) (firewall.Policy, error) {
	var rules strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") { // where the words are explained
			line = strings.NewReplacer(words...).Replace(line)
		}
		rules.WriteString(line)
	}
	policy, err := firewall.ParsePolicy(rules.String())
	if err != nil {
		return firewall.Policy{}, fmt.Errorf("%s: %w", name, err)
	}
	return policy, nil
}
