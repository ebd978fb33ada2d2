package firewall

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Handler returns a handler that passes on to next what the policy accepts, and
// nothing else. A request that is refused, by Drop and by Reject alike, gets the
// status 403; one that is too large gets 413, 414 or 431; one over a limit gets
// 429 and a Retry-After, after which a request of the same client is within that
// limit unless the client sends others meanwhile. The body is text, or the problem
// details of RFC 9457 for a client that asks for JSON, and does not say which rule
// it was.
//
// Next gets the http.ResponseWriter and the *http.Request as they came, so that
// streaming, WebSocket, the Pattern of http.ServeMux and the rest work as without
// the firewall. [Firewall.ClientIP] tells the client, or [ClientIP], for which there
// is Config.ClientInContext. Only for a request that does not say how long its body
// is, where a [SizeLimit] bounds that, there is a writer around the writer, which
// has the same abilities.
//
// Reading a body fails if the client is slower than Config.MinRate.
//
// The handler must see the path as the client sent it: before any
// http.StripPrefix, http.ServeMux or the like.
func (f *Firewall) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var o outcome
		p := f.program.Load()
		seen := f.requestFacts(r)
		f.admit(p, &seen, &o)
		if o.announced != nil {
			p.announce(w.Header(), o.announced)
		}
		switch {
		case o.verdict == Accept:
			if f.inContext {
				r = r.WithContext(context.WithValue(r.Context(), clientKey{}, seen.client))
			}
			answer, finish := f.watchBody(w, r, o.maxBody)
			next.ServeHTTP(answer, r)
			if finish != nil {
				finish()
			}
		case o.reason == ByLimit:
			w.Header().Set("Retry-After", f.retryAfter(o.wait))
			refuse(w, r, http.StatusTooManyRequests)
		case o.reason == BySize:
			if o.status == http.StatusRequestEntityTooLarge {
				w.Header().Set("Connection", "close") // rather than read it
			}
			refuse(w, r, o.status)
		default:
			refuse(w, r, http.StatusForbidden)
		}
	})
}

// admit decides about a request, takes its tokens, and records it.
func (f *Firewall) admit(p *program, seen *facts, o *outcome) {
	now := f.now()
	f.decideRequest(p, seen, o, now)
	if o.verdict == Accept && p.requestLimits > 0 {
		p.limit(seen, o, now, true)
	}
	f.record(p, RequestDepth, seen, o)
}

// retryAfter rounds up to whole seconds, which are all that RFC 9110 section
// 10.2.3 has.
func (f *Firewall) retryAfter(wait time.Duration) string {
	if f.retryJitter > 0 {
		wait += rand.N(f.retryJitter)
	}
	return strconv.FormatInt(max(1, wholeSeconds(wait)), 10)
}

func refuse(w http.ResponseWriter, r *http.Request, status int) {
	title := http.StatusText(status)
	contentType, body := "text/plain; charset=utf-8", title+"\n"
	if prefersJSON(r.Header.Values("Accept")) {
		contentType, body = "application/problem+json", fmt.Sprintf(`{"type":"about:blank","title":%q,"status":%d}`+"\n", title, status)
	}
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Add("Vary", "Accept")
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		// Nobody is left to tell of an error.
		_, _ = w.Write([]byte(body))
	}
}

// prefersJSON says whether Accept names JSON and wants text no more than that.
// RFC 9110 section 12.5.1; what cannot be read is taken for 1.
func prefersJSON(accept []string) bool {
	const maxRanges = 32
	json, text, ranges := 0.0, 0.0, 0
	for _, line := range accept {
		for item := range strings.SplitSeq(line, ",") {
			if ranges++; ranges > maxRanges {
				return false
			}
			name, parameters, _ := strings.Cut(item, ";")
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "application/json", "application/problem+json":
				json = max(json, quality(parameters))
			case "text/plain", "text/html", "text/*":
				text = max(text, quality(parameters))
			}
		}
	}
	return json > 0 && json >= text
}

func quality(parameters string) float64 {
	for p := range strings.SplitSeq(parameters, ";") {
		name, value, _ := strings.Cut(strings.TrimSpace(p), "=")
		if !strings.EqualFold(name, "q") {
			continue
		}
		if q, err := strconv.ParseFloat(value, 64); err == nil && q >= 0 && q <= 1 {
			return q
		}
	}
	return 1
}
