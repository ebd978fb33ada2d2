package qps

import (
	"encoding/json"
	"net/http"
)

// SnapshotHandler serves [Meter.Snapshot] as JSON, for [Fleet] and for whoever
// wants numbers rather than metrics. The form is that of the fields of
// [Snapshot], in version [SnapshotVersion]: fields may be added, but what is
// there keeps its name and its meaning while the version stays. By convention it
// is at /api/v1/snapshot. Guard it: routes and rates are not for the public.
func (m *Meter) SnapshotHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, m.Snapshot()) })
}

// SnapshotHandler serves [Fleet.Snapshot] as JSON, likewise.
func (f *Fleet) SnapshotHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, f.Snapshot()) })
}

func writeJSON(w http.ResponseWriter, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "qps: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write(data) // the client sees that it is short
}
