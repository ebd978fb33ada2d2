package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/palisade-go/palisade/dbrouter"
	"github.com/palisade-go/palisade/lb"
	"github.com/palisade-go/palisade/qps"
	"github.com/palisade-go/palisade/tlsx"
)

const (
	snapshotPatience = time.Second
	maxSnapshotBytes = 16 << 20
)

//go:embed admin.html
var adminHTML string

var adminTemplate = template.Must(template.New("admin").Parse(adminHTML))

// admin shows the whole stack on one page: it knows the balancer, and asks the
// web servers over mutual TLS, as the monitor.
type admin struct {
	balancer *balancer
	peers    []adminPeer
}

type adminPeer struct {
	name   string
	url    string
	client *http.Client
}

// peerReport is what a web server answered, or why it did not.
type peerReport struct {
	name string
	webSnapshot
	err error
}

// startAdmin serves the overview and the metrics.
func startAdmin(s *stack, addr string, b *balancer, ca *tlsx.CA, web1, web2 string) error {
	a := &admin{balancer: b}
	for name, web := range map[string]string{"web1": web1, "web2": web2} {
		conf, err := backendTLS(ca, monitorID, name)
		if err != nil {
			return err
		}
		tr := &http.Transport{TLSClientConfig: conf, MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute}
		s.onStop("monitor", func(context.Context) error { tr.CloseIdleConnections(); return nil })
		a.peers = append(a.peers, adminPeer{name, "https://" + web + snapshotPath, &http.Client{Transport: tr, Timeout: snapshotPatience}})
	}
	if a.peers[0].name > a.peers[1].name {
		a.peers[0], a.peers[1] = a.peers[1], a.peers[0]
	}
	ln, err := listen("admin", addr)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.overview)
	mux.HandleFunc("GET /metrics", a.metrics)
	srv := newServer(mux)
	s.serve("admin", srv, func() error { return srv.Serve(ln) })
	return nil
}

// ask gets the reports of all web servers, side by side.
func (a *admin) ask(ctx context.Context) []peerReport {
	reports := make([]peerReport, len(a.peers))
	var wg sync.WaitGroup
	for i, p := range a.peers {
		wg.Go(func() {
			reports[i].name = p.name
			reports[i].webSnapshot, reports[i].err = p.ask(ctx)
		})
	}
	wg.Wait()
	return reports
}

func (p *adminPeer) ask(ctx context.Context) (webSnapshot, error) {
	var out webSnapshot
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.url, nil)
	if err != nil {
		return out, err
	}
	res, err := p.client.Do(req)
	if err != nil {
		return out, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return out, fmt.Errorf("it answers %s", res.Status)
	}
	err = json.NewDecoder(io.LimitReader(res.Body, maxSnapshotBytes)).Decode(&out)
	return out, err
}

func (a *admin) metrics(w http.ResponseWriter, r *http.Request) {
	snaps := []qps.Snapshot{a.balancer.meter.Snapshot()}
	for _, report := range a.ask(r.Context()) {
		if report.err == nil {
			snaps = append(snaps, report.Traffic)
		}
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	if err := qps.WriteMetrics(w, snaps...); err != nil {
		slog.Debug("threeserver: metrics not written", "err", err)
	}
}

// The rest lays the reports out as rows of text.
type (
	overviewPage struct {
		Servers  []serverRows
		Backends []backendRow
		Nodes    []nodeRow
	}
	serverRows struct {
		Name   string
		Up     bool
		Err    string
		Routes []routeRow
	}
	routeRow struct {
		Name, Rate10s, Rate1m, ErrorRatio, P50, P99 string
		Requests                                    uint64
		InFlight                                    int64
	}
	backendRow struct {
		lb.BackendStatus
		trafficCells
	}
	nodeRow struct {
		Name, Seen, Role, State, Lag, LastError string
		trafficCells
	}
	// trafficCells are what a server measured of something that it uses.
	trafficCells struct{ Rate10s, ErrorRatio, P50, P99 string }
)

func (a *admin) overview(w http.ResponseWriter, r *http.Request) {
	edge := a.balancer.meter.Snapshot()
	page := overviewPage{Servers: []serverRows{{Name: balancerID, Up: true, Routes: routeRows(edge)}}}
	for _, b := range a.balancer.pool.Status() {
		page.Backends = append(page.Backends, backendRow{b, trafficTo(edge, b.ID)})
	}
	for _, report := range a.ask(r.Context()) {
		rows := serverRows{Name: report.name, Up: report.err == nil}
		if report.err != nil {
			rows.Err = report.err.Error()
		} else {
			rows.Routes = routeRows(report.Traffic)
		}
		page.Servers = append(page.Servers, rows)
		for _, n := range report.Database {
			page.Nodes = append(page.Nodes, nodeRowOf(report, n))
		}
	}
	var buf bytes.Buffer
	if err := adminTemplate.Execute(&buf, page); err != nil {
		slog.Error("threeserver: overview", "err", err)
		http.Error(w, "the overview cannot be shown", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
	h.Set("Cache-Control", "no-store")
	w.Write(buf.Bytes())
}

func routeRows(s qps.Snapshot) []routeRow {
	var rows []routeRow
	for _, r := range s.Routes {
		if r.Requests() == 0 && r.InFlight == 0 {
			continue // a name that a request had before its route was known
		}
		rows = append(rows, routeRow{
			Name:       routeName(r),
			Rate10s:    fmt.Sprintf("%.1f", r.Rate(10*time.Second)),
			Rate1m:     fmt.Sprintf("%.1f", r.Rate(time.Minute)),
			ErrorRatio: fmt.Sprintf("%.2f %%", 100*r.ErrorRatio(time.Minute)),
			P50:        shortDuration(r.Quantile(0.5)),
			P99:        shortDuration(r.Quantile(0.99)),
			Requests:   r.Requests(),
			InFlight:   r.InFlight,
		})
	}
	return rows
}

// routeName is the pattern with the method in front of it, once.
func routeName(r qps.RouteSnapshot) string {
	if strings.HasPrefix(r.Route, r.Method+" ") {
		return r.Route
	}
	return r.Method + " " + r.Route
}

func nodeRowOf(seenBy peerReport, n dbrouter.NodeStatus) nodeRow {
	row := nodeRow{Name: n.Name, Seen: seenBy.name, Role: n.Role.String(), State: n.State.String(), LastError: n.LastError, trafficCells: trafficTo(seenBy.Traffic, n.Name)}
	if n.Role == dbrouter.Replica && n.LagKnown {
		row.Lag = shortDuration(n.Lag)
	}
	return row
}

func trafficTo(s qps.Snapshot, upstream string) trafficCells {
	for _, u := range s.Upstreams {
		if u.Upstream == upstream {
			return trafficCells{
				fmt.Sprintf("%.1f", u.Rate(10*time.Second)), fmt.Sprintf("%.2f %%", 100*u.ErrorRatio(time.Minute)),
				shortDuration(u.Quantile(0.5)), shortDuration(u.Quantile(0.99)),
			}
		}
	}
	return trafficCells{}
}

// shortDuration shows three digits.
func shortDuration(d time.Duration) string {
	unit := time.Duration(1)
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit).String()
}
