package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf8"
)

// serviceMap is what the program prints once everything runs.
type serviceMap struct {
	role      string
	rows      [][3]string // what, where, about
	notes     []string
	ca        string // PEM file of the CA
	cert, key string // of the demonstration's client; empty without an edge
	url       string // of the edge
	curl      string // how curl gets there: --cacert or --resolve
}

func (m *serviceMap) add(what, where, about string) {
	m.rows = append(m.rows, [3]string{what, where, about})
}

func (m *serviceMap) addDatabase(db database) {
	var where []string
	for _, n := range db.nodes {
		where = append(where, n.Config.Addr)
	}
	m.add("database", strings.Join(where, ", "), db.about)
}

func (m *serviceMap) addEdge(c *config) {
	host, port, _ := net.SplitHostPort(c.https)
	about := "HTTPS, certificate of the CA below"
	m.curl = "--cacert " + quoted(m.ca)
	name := host
	switch ip := net.ParseIP(host); {
	case len(c.domains) > 0:
		name = c.domains[0]
		about = "HTTPS, certificate by ACME for " + strings.Join(c.domains, ", ")
		m.curl = ""
		if ip != nil && !ip.IsUnspecified() {
			m.curl = fmt.Sprintf("--resolve %s:%s:%s", name, port, host)
		}
	case host == "" || ip != nil && ip.IsUnspecified():
		name = "localhost"
	}
	m.url = "https://" + net.JoinHostPort(name, port)
	edge := [][3]string{{"balancer", c.https, about}}
	if c.http != "" {
		edge = append(edge, [3]string{"", c.http, "HTTP, redirects to HTTPS"})
	}
	if c.role == roleBalancer {
		edge = append(edge, [3]string{"web1", c.web1, "elsewhere"}, [3]string{"web2", c.web2, "elsewhere"})
	}
	if c.admin != "" {
		edge = append(edge, [3]string{"monitoring", "http://" + c.admin + "/", "overview; /metrics for Prometheus"})
	}
	m.rows = slices.Concat(edge, m.rows)
}

// print writes the map, at once, so that no line of the log gets between. Its
// last line says how to end the program.
func (m *serviceMap) print(out io.Writer) {
	w := new(bytes.Buffer)
	defer w.WriteTo(out)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range m.rows {
		fmt.Fprintf(tw, "%s\t%s\t%s\n", r[0], r[1], r[2])
	}
	fmt.Fprintf(tw, "CA to trust\t%s\t\n", m.ca)
	tw.Flush()
	for _, n := range m.notes {
		fmt.Fprintln(w, n)
	}
	if m.url != "" {
		curl, notes := strings.TrimSpace("curl "+m.curl), quoted(m.url+"/api/notes")
		fmt.Fprintf(w, "\nTry:\n  %s %s\n", curl, notes)
		fmt.Fprintf(w, "  %s -H 'Content-Type: application/json' -d '{\"text\":\"hello\"}' %s\n", curl, notes)
		fmt.Fprintf(w, "  %s --cert %s --key %s %s\n", curl, quoted(m.cert), quoted(m.key), quoted(m.url+"/"))
	}
	fmt.Fprintln(w, "\nCtrl-C stops everything.")
}

// quoted is a word as a shell takes it: a folder may have a space in its name, and
// an address of IPv6 has brackets.
func quoted(s string) string {
	plain := func(r rune) bool {
		return r < utf8.RuneSelf && (unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("/.:@%+=,_-", r))
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
