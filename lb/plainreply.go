package lb

import (
	"net/http"
	"slices"
	"time"

	"github.com/palisade-go/palisade/lb/internal/http1"
)

// isPlain says whether nothing but fields left out is to be done to a response,
// so that it can go straight to the client.
func (x *exchange) isPlain(res *http1.Response) bool {
	limit := x.proxy.conf.MaxResponseBody
	if !x.proxy.repliesPlain || res.Status < 200 || len(res.Trailer) > 0 || limit > 0 && (res.Length < 0 || res.Length > limit) {
		return false
	}
	for i := range res.Fields {
		if f := &res.Fields[i]; f.Name == "Connection" && !isPersistence([]string{f.Value}) {
			return false
		}
	}
	return true
}

// respondPlain is respond for a response that is plain.
func (x *exchange) respondPlain(res *http1.Response) {
	defer res.Body.Close()
	x.current.wait = time.Since(x.current.start)
	streams, typed := res.Length < 0, false
	kept := res.Fields[:0]
	for _, f := range res.Fields {
		switch f.Name {
		case "Content-Type":
			typed = true
			streams = streams || isEventStream(f.Value)
		case LoadHeader:
			if x.current.load == nil {
				x.current.load = parseLoad(f.Value)
			}
		}
		if !isHopByHop(f.Name) {
			kept = append(kept, f)
		}
	}
	x.event.Status = res.Status
	if w, ok := x.w.(*reply); ok && w.isUntouched() {
		w.writeFields(res.Status, kept)
	} else {
		h := x.w.Header()
		setFields(h, kept)
		if !typed && len(h["Content-Type"]) == 0 {
			h["Content-Type"] = nil // or the server guesses one
		}
		x.w.WriteHeader(res.Status)
	}
	x.forwardBody(res.Body, res.Length, streams)
	x.writeTrailer(res.Trailer, 0)
	x.settle(Succeeded, res.Status, nil)
}

// setFields is addResponseFields for a list.
func setFields(h http.Header, list []http1.Field) {
	values := make([]string, len(list)) // one array for all
	for i, f := range list {
		values[i] = f.Value
		old := h[f.Name]
		if len(old) == 0 || isSingleton(f.Name) && !slices.ContainsFunc(list[:i], func(p http1.Field) bool { return p.Name == f.Name }) {
			h[f.Name] = values[i : i+1 : i+1]
		} else {
			h[f.Name] = append(old, f.Value)
		}
	}
}
