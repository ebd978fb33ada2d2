package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/palisade-go/palisade/dbrouter/mysqltest/mariadb"
)

// threeHosts is the stack as three processes that share a state folder and a
// database, as on three hosts.
type threeHosts struct {
	t                    *testing.T
	a                    addresses
	state                string
	db                   *mariadb.Cluster
	balancer, web1, web2 *process
}

func startThreeHosts(t *testing.T) *threeHosts {
	t.Helper()
	h := spreadOut(t)
	h.balancer = start(t, h.a.flags("-role", "balancer", "-state", h.state)...)
	return h
}

// spreadOut is startThreeHosts without the balancer.
func spreadOut(t *testing.T) *threeHosts {
	t.Helper()
	need(t, "mariadbd")
	state, err := os.MkdirTemp("", "p3-state-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(state) })
	cluster, err := mariadb.Start(t.Context(), mariadb.Config{Database: "notes", Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cluster.Close() })
	h := &threeHosts{t: t, a: freeAddresses(t), state: state, db: cluster}
	h.web1, h.web2 = h.web("web1"), h.web("web2")
	return h
}

func (h *threeHosts) web(name string) *process {
	h.t.Helper()
	nodes := h.db.Nodes()
	return start(h.t, "-role", "web", "-name", name, "-state", h.state, "-web1", h.a.web1, "-web2", h.a.web2,
		"-db-primary", nodes[0].AppConfig().FormatDSN(), "-db-replica", nodes[1].AppConfig().FormatDSN())
}

// answers waits until a web server is among those that answer.
func (h *threeHosts) answers(c *http.Client, name string) {
	h.t.Helper()
	eventually(h.t, 30*time.Second, func() error {
		if _, header, _ := get(h.t, c, "https://"+h.a.https+"/api/notes"); header.Get("X-Served-By") != name {
			return fmt.Errorf("%s does not answer", name)
		}
		return nil
	})
}

// TestKills runs the stack as three processes under load and kills what is
// there twice.
func TestKills(t *testing.T) {
	h := startThreeHosts(t)
	c := h.balancer.client()
	post(t, c, h.a, "before")
	h.answers(c, "web1")
	h.answers(c, "web2")

	during := func(what string, do func()) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		good, bad, last, wait := hammer(ctx, h.balancer.http1Client(), "https://"+h.a.https+"/api/notes", 4)
		reach := func(more int64) {
			t.Helper()
			aim := good.Load() + more
			eventually(t, 30*time.Second, func() error {
				if n := good.Load(); n < aim {
					return fmt.Errorf("%s: %d answers, want %d; %d failed, last: %v", what, n, aim, bad.Load(), last.Load())
				}
				return nil
			})
		}
		reach(100)
		do()
		reach(300)
		cancel()
		wait()
		if n := bad.Load(); n > 0 {
			t.Errorf("%s: %d requests failed beside %d good ones, last: %v", what, n, good.Load(), last.Load())
		}
	}
	during("kill -9 of web2", h.web2.kill)
	if _, header, _ := get(t, c, "https://"+h.a.https+"/api/notes"); header.Get("X-Served-By") != "web1" {
		t.Errorf("%s answers after web2 was killed", header.Get("X-Served-By"))
	}
	shows := func(state string) {
		t.Helper()
		eventually(t, 30*time.Second, func() error {
			if _, _, page := get(t, c, "http://"+h.a.admin+"/"); !strings.Contains(page, `<td>web2</td><td class="l">`+state) {
				return fmt.Errorf("the overview does not show web2 as %s", state)
			}
			return nil
		})
	}
	shows(`<span class="bad">lost`)
	h.web2 = h.web("web2")
	h.answers(c, "web2")
	shows("up")

	replica := h.db.Nodes()[1]
	during("kill -9 of the replica", replica.Kill)
	post(t, c, h.a, "without the replica")
	if err := replica.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	during("restart of the replica", func() {})

	for _, p := range []*process{h.balancer, h.web1, h.web2} {
		p.interrupt()
		if status := p.wait(time.Minute); status != 0 {
			t.Errorf("exit status %d after Ctrl-C", status)
		}
		p.nothingLeft()
	}
}
