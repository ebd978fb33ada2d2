package lb

import (
	"fmt"
	"log/slog"
	"strconv"
	"time"
)

// maxLogField bounds what an access log takes of a field that the client sent.
const maxLogField = 2048

// AppendCombined appends a line in the combined format of Apache and NGINX, and
// its end, to dst: the peer's address, the time, the request line, the status,
// the bytes of the response's body, Referer and User-Agent. What could end a
// field or a line is escaped as \xhh, and long fields are cut. The format has no
// place for more; LogAttrs has. Nothing may write
// to the log by halves; so a line is best written at once, under a lock:
//
//	OnDone: func(e lb.Event) {
//		line := e.AppendCombined(nil)
//		mu.Lock()
//		defer mu.Unlock()
//		out.Write(line)
//	},
func (e Event) AppendCombined(dst []byte) []byte {
	peer := "-"
	if addr := peerOf(e.Request); addr.IsValid() {
		peer = addr.String()
	}
	dst = append(dst, peer...)
	dst = append(dst, " - - ["...)
	dst = e.Start.AppendFormat(dst, "02/Jan/2006:15:04:05 -0700")
	dst = append(dst, "] "...)
	if r := e.Request; r.Method == "" && r.RequestURI != "" {
		dst = appendLogQuoted(dst, r.RequestURI) // the whole line, which nobody understood
	} else {
		dst = appendLogQuoted(dst, r.Method, " ", e.target(), " ", r.Proto)
	}
	dst = fmt.Appendf(dst, " %03d %d ", e.Status, e.ResponseBytes)
	dst = appendLogQuoted(dst, orDash(e.Request.Referer()))
	dst = append(dst, ' ')
	dst = appendLogQuoted(dst, orDash(e.Request.UserAgent()))
	return append(dst, '\n')
}

// LogAttrs returns the record for a structured log, as in
//
//	OnDone: func(e lb.Event) {
//		logger.LogAttrs(context.Background(), slog.LevelInfo, "request", e.LogAttrs()...)
//	},
//
// whose handler, such as slog.JSONHandler, escapes what needs it. Fields that the
// client sent are cut if they are long.
func (e Event) LogAttrs() []slog.Attr {
	r := e.Request
	attrs := []slog.Attr{
		slog.Time("start", e.Start), slog.String("peer", peerOf(r).String()),
		slog.String("method", cut(r.Method)), slog.String("host", cut(r.Host)), slog.String("target", cut(e.target())), slog.String("proto", r.Proto),
		slog.Int("status", e.Status), slog.Duration("duration", e.Duration.Round(time.Microsecond)),
		slog.Int64("request_bytes", e.RequestBytes), slog.Int64("response_bytes", e.ResponseBytes),
		slog.String("backend", e.Backend), slog.Int("attempts", e.Attempts),
	}
	if v := r.Referer(); v != "" {
		attrs = append(attrs, slog.String("referer", cut(v)))
	}
	if v := r.UserAgent(); v != "" {
		attrs = append(attrs, slog.String("user_agent", cut(v)))
	}
	if e.RequestID != "" {
		attrs = append(attrs, slog.String("request_id", e.RequestID))
	}
	if e.Traceparent != "" {
		attrs = append(attrs, slog.String("traceparent", e.Traceparent))
	}
	if e.Hedged {
		attrs = append(attrs, slog.Bool("hedged", true))
	}
	if e.Upgraded {
		attrs = append(attrs, slog.Bool("upgraded", true))
	}
	if e.Err != nil {
		attrs = append(attrs, slog.String("err", e.Err.Error()))
	}
	return attrs
}

// target is what the client asked for, as it did; a request that no server has
// read has a URL only.
func (e Event) target() string {
	switch r := e.Request; {
	case r.RequestURI != "":
		return r.RequestURI
	case r.URL != nil:
		return r.URL.RequestURI()
	}
	return "-"
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func cut(s string) string { return s[:min(len(s), maxLogField)] }

// appendLogQuoted appends parts in quotes. Each is cut.
func appendLogQuoted(dst []byte, parts ...string) []byte {
	dst = append(dst, '"')
	for _, s := range parts {
		for _, c := range []byte(cut(s)) {
			if c < ' ' || c > '~' || c == '"' || c == '\\' {
				dst = append(dst, '\\', 'x')
				if c < 0x10 {
					dst = append(dst, '0')
				}
				dst = strconv.AppendUint(dst, uint64(c), 16)
				continue
			}
			dst = append(dst, c)
		}
	}
	return append(dst, '"')
}
