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
	databasePatience = time.Second
	maxDatabaseBytes = 1 << 20
)

//go:embed admin.html
var adminHTML string

var adminTemplate = template.Must(template.New("admin").Parse(adminHTML))

// admin shows the whole stack on one page: it knows the balancer, polls the
// meters of the web servers over mutual TLS, as the monitor, and asks them how
// they see the database.
type admin struct {
	balancer *balancer
	fleet    *qps.Fleet
	client   *http.Client
	webs     []webAddress
}

type webAddress struct{ name, addr string }

// databaseReport is how a web server sees the database; of one that does not
// answer there are no nodes.
type databaseReport struct {
	server string
	nodes  []dbrouter.NodeStatus
}

// startAdmin serves the overview, the metrics, and both as JSON.
func startAdmin(s *stack, addr string, b *balancer, ca *tlsx.CA, web1, web2 string) error {
	conf, err := backendTLS(ca, monitorID, "web1", "web2")
	if err != nil {
		return err
	}
	tr := &http.Transport{TLSClientConfig: conf, MaxIdleConnsPerHost: 2, IdleConnTimeout: time.Minute}
	s.onStop("monitor", func(context.Context) error { tr.CloseIdleConnections(); return nil })
	a := &admin{balancer: b, client: &http.Client{Transport: tr}, webs: []webAddress{{"web1", web1}, {"web2", web2}}}
	fleet := qps.FleetConfig{Local: b.meter, Client: a.client}
	for _, web := range a.webs {
		fleet.Peers = append(fleet.Peers, qps.Peer{Name: web.name, URL: "https://" + web.addr + snapshotPath})
	}
	ln, err := listen("admin", addr)
	if err != nil {
		return err
	}
	if a.fleet, err = qps.NewFleet(fleet); err != nil {
		ln.Close()
		return err
	}
	s.onStop("fleet", func(context.Context) error { return a.fleet.Close() })
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.overview)
	mux.HandleFunc("GET /metrics", a.metrics)
	mux.Handle("GET /api/v1/fleet", a.fleet.SnapshotHandler())
	srv := newServer(mux)
	s.serve("admin", srv, func() error { return srv.Serve(ln) })
	return nil
}

// askDatabase gets the reports of all web servers, side by side.
func (a *admin) askDatabase(ctx context.Context) []databaseReport {
	ctx, cancel := context.WithTimeout(ctx, databasePatience)
	defer cancel()
	reports := make([]databaseReport, len(a.webs))
	var wg sync.WaitGroup
	for i, web := range a.webs {
		wg.Go(func() {
			nodes, err := a.nodes(ctx, "https://"+web.addr+databasePath)
			if err != nil {
				slog.Debug("threeserver: database report", "server", web.name, "err", err)
			}
			reports[i] = databaseReport{web.name, nodes}
		})
	}
	wg.Wait()
	return reports
}

func (a *admin) nodes(ctx context.Context, url string) ([]dbrouter.NodeStatus, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := a.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %s", res.Status)
	}
	var nodes []dbrouter.NodeStatus
	err = json.NewDecoder(io.LimitReader(res.Body, maxDatabaseBytes)).Decode(&nodes)
	return nodes, err
}

// metrics are those of every server that answers, each with its name as label:
// Prometheus can add up, but not take apart.
func (a *admin) metrics(w http.ResponseWriter, _ *http.Request) {
	var snaps []qps.Snapshot
	for _, p := range a.fleet.Snapshot().Peers {
		if !p.Lost && p.Snapshot.Version != 0 {
			snaps = append(snaps, p.Snapshot)
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
		Merged   []routeRow // of all servers that answer, as if they were one
		Servers  []serverRows
		Backends []backendRow
		Nodes    []nodeRow
	}
	serverRows struct {
		Name           string
		Lost           bool
		Err, Skew, CPU string
		MiB            uint64
		Goroutines     int
		Routes         []routeRow
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
	fleet := a.fleet.Snapshot()
	page := overviewPage{Merged: routeRows(fleet.Merged)}
	traffic := make(map[string]qps.Snapshot)
	for _, p := range fleet.Peers {
		traffic[p.Name] = p.Snapshot
		page.Servers = append(page.Servers, serverRowsOf(p))
	}
	for _, b := range a.balancer.pool.Status() {
		page.Backends = append(page.Backends, backendRow{b, trafficTo(traffic[balancerID], b.ID)})
	}
	for _, report := range a.askDatabase(r.Context()) {
		for _, n := range report.nodes {
			page.Nodes = append(page.Nodes, nodeRowOf(report.server, n, traffic[report.server]))
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

func serverRowsOf(p qps.PeerSnapshot) serverRows {
	process := p.Snapshot.Process
	return serverRows{
		Name: p.Name, Lost: p.Lost, Err: p.Error, Skew: shortDuration(p.Skew), CPU: shortDuration(process.CPU),
		MiB: process.ResidentBytes >> 20, Goroutines: process.Goroutines, Routes: routeRows(p.Snapshot),
	}
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

func nodeRowOf(seenBy string, n dbrouter.NodeStatus, traffic qps.Snapshot) nodeRow {
	row := nodeRow{Name: n.Name, Seen: seenBy, Role: n.Role.String(), State: n.State.String(), LastError: n.LastError, trafficCells: trafficTo(traffic, n.Name)}
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
	for d.Abs()/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit).String()
}
