package qps

import (
	"bytes"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
)

const (
	textType        = "text/plain; version=0.0.4; charset=utf-8"
	openMetricsType = "application/openmetrics-text; version=1.0.0; charset=utf-8"
)

// wantsOpenMetrics says whether a client prefers OpenMetrics to the text format
// (RFC 9110, section 12.5.1). One that does not say gets text.
func wantsOpenMetrics(h http.Header) bool {
	var open, text float64
	for _, field := range h["Accept"] {
		for item := range strings.SplitSeq(field, ",") {
			kind, params, err := mime.ParseMediaType(item)
			if err != nil {
				continue
			}
			q := 1.0
			if v, ok := params["q"]; ok {
				if q, err = strconv.ParseFloat(v, 64); err != nil || q < 0 || q > 1 {
					continue
				}
			}
			switch version := params["version"]; kind {
			case "application/openmetrics-text":
				if version == "" || version == "1.0.0" || version == "0.0.1" {
					open = max(open, q)
				}
			case "text/plain", "text/*", "*/*":
				text = max(text, q)
			}
		}
	}
	return open > 0 && open >= text
}

// toOpenMetrics turns Prometheus text into OpenMetrics 1.0. A counter's family
// loses the suffix "_total", which its samples keep; counters without it, which
// OpenMetrics does not have, become "unknown".
func toOpenMetrics(text []byte) []byte {
	out := make([]byte, 0, len(text)+len(text)/16)
	help := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "# HELP "):
			help = line[len("# HELP "):] // for its type, which decides on the name
		case strings.HasPrefix(line, "# TYPE "):
			name, kind, _ := strings.Cut(line[len("# TYPE "):], " ")
			_, words, _ := strings.Cut(help, " ")
			out = appendOpenFamily(out, name, kind, words)
			help = ""
		case line == "", line[0] == '#':
		default:
			out = append(append(out, line...), '\n')
		}
	}
	return append(out, "# EOF\n"...)
}

// appendOpenFamily describes a family; without words it has no help.
func appendOpenFamily(b []byte, name, kind, words string) []byte {
	family, isTotal := strings.CutSuffix(name, "_total")
	switch {
	case kind == "counter" && isTotal:
		name = family
	case kind == "counter", kind == "untyped":
		kind = "unknown"
	}
	b = append(b, "# TYPE "+name+" "+kind+"\n"...)
	if words != "" {
		b = append(b, "# HELP "+name+" "+strings.ReplaceAll(words, `"`, `\"`)+"\n"...)
	}
	return b
}

// openWriter is what the set writes to for OpenMetrics. The Meter, whose metrics
// are most of what there is, finds it and writes in that form to whoever scrapes;
// what others write is kept, to be turned into that form.
type openWriter struct {
	bytes.Buffer
	to io.Writer
}

// writeOpenMetrics answers a scrape.
func (m *Meter) writeOpenMetrics(w http.ResponseWriter) {
	w.Header().Set("Content-Type", openMetricsType)
	others := openWriter{to: w}
	m.set.WritePrometheus(&others)
	_, _ = w.Write(toOpenMetrics(others.Bytes())) // the client sees that it is short
}
