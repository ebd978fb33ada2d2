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
	streams := res.Length < 0
	kept := res.Fields[:0]
	for _, f := range res.Fields {
		switch f.Name {
		case "Content-Type":
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
	w := replyBelow(x.w)
	if w != nil && w.isUntouched() && kept != nil {
		w.fields = kept
	} else {
		setFields(x.w.Header(), kept)
	}
	x.w.WriteHeader(res.Status)
	if w != nil && w.fields != nil { // by what kept WriteHeader to itself: the list ends with the exchange
		w.Header()
	}
	x.forwardBody(res.Body, res.Length, streams)
	x.writeTrailer(res.Trailer, 0)
	x.settle(Succeeded, res.Status, nil)
}

// maxUnwrap bounds the chain of wrappers, which might be a circle.
const maxUnwrap = 64

// replyBelow returns the reply that a writer ends in, and nil if there is none or if
// something in between may look at the header. What does not says so by having a
// method PassesHeader.
func replyBelow(w http.ResponseWriter) *reply {
	for range maxUnwrap {
		switch v := w.(type) {
		case *reply:
			return v
		case interface {
			PassesHeader()
			Unwrap() http.ResponseWriter
		}:
			w = v.Unwrap()
		default:
			return nil
		}
	}
	return nil
}

// setFields is addResponseFields for a list, and has the server guess no
// Content-Type.
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
	if len(h["Content-Type"]) == 0 {
		h["Content-Type"] = nil
	}
}
