package main

import (
	"bytes"
	_ "embed"
	"html/template"
	"net/http"
	"time"

	"github.com/palisade-go/palisade/qps"
)

//go:embed page.html
var pageText string

func adminRoutes(meter *qps.Meter, fleet *qps.Fleet) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", meter.MetricsHandler())
	mux.Handle("GET /api/v1/snapshot", meter.SnapshotHandler())
	mux.Handle("GET /api/v1/fleet", fleet.SnapshotHandler())
	page := template.Must(template.New("page").Funcs(template.FuncMap{
		"rate":     func(w qps.Window, seconds int) float64 { return w.Rate(time.Duration(seconds) * time.Second) },
		"errors":   func(w qps.Window) float64 { return 100 * w.ErrorRatio(time.Minute) },
		"quantile": func(h qps.Histogram, q float64) time.Duration { return round(h.Quantile(q)) },
		"mib":      func(bytes uint64) float64 { return float64(bytes) / (1 << 20) },
		"clock":    func(second int64) string { return time.Unix(second, 0).UTC().Format("15:04:05") },
	}).Parse(pageText))
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		var buf bytes.Buffer
		if err := page.Execute(&buf, fleet.Snapshot()); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		w.Header().Set("Cache-Control", "no-store")
		_, _ = buf.WriteTo(w)
	})
	return mux
}

// round keeps three digits.
func round(d time.Duration) time.Duration {
	unit := time.Duration(1)
	for d/unit >= 1000 {
		unit *= 10
	}
	return d.Round(unit)
}
