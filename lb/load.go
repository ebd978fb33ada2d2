package lb

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// LoadHeader is the response field in which a backend tells its [Load]: that of
// the Open Request Cost Aggregation of Envoy and gRPC.
const LoadHeader = "Endpoint-Load-Metrics"

// Load is what a backend says about itself. It is plain data.
type Load struct {
	// InFlight is the number of requests that the backend has, whoever sent them.
	InFlight int
	// Latency is how long a request takes that comes while the backend has so
	// many: the median of the last ones that did. 0 means that none is known.
	Latency time.Duration
}

const (
	loadInFlight  = "named_metrics.in_flight"
	loadLatency   = "named_metrics.latency_ms"
	maxLoadHeader = 4096
	maxLoadNumber = 1e9
)

// String returns the load as a value of [LoadHeader]:
//
//	TEXT named_metrics.in_flight=3,named_metrics.latency_ms=12.5
func (l Load) String() string {
	return "TEXT " + loadInFlight + "=" + strconv.Itoa(l.InFlight) + "," +
		loadLatency + "=" + strconv.FormatFloat(float64(l.Latency)/1e6, 'f', -1, 64)
}

// ParseLoad reads a value of [LoadHeader], in its TEXT form. Metrics other than
// named_metrics.in_flight, which must be there, and named_metrics.latency_ms are
// ignored.
func ParseLoad(s string) (Load, error) {
	text, ok := strings.CutPrefix(s, "TEXT ")
	if !ok || len(s) > maxLoadHeader {
		return Load{}, fmt.Errorf("lb: load of %d bytes, want %d at most that begin with \"TEXT \"", len(s), maxLoadHeader)
	}
	var l Load
	found := false
	for pair := range strings.SplitSeq(text, ",") {
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			return Load{}, fmt.Errorf("lb: load metric is %q, want name=number", pair)
		}
		if name = strings.Trim(name, " \t"); name != loadInFlight && name != loadLatency {
			continue
		}
		f, err := strconv.ParseFloat(strings.Trim(value, " \t"), 64)
		if err != nil || !(f >= 0 && f <= maxLoadNumber) {
			return Load{}, fmt.Errorf("lb: load metric %s is %q, want a number from 0 to %v", name, value, maxLoadNumber)
		}
		if name == loadInFlight {
			l.InFlight, found = int(f), true
		} else {
			l.Latency = time.Duration(math.Round(f * 1e6))
		}
	}
	if !found {
		return Load{}, fmt.Errorf("lb: load lacks %s", loadInFlight)
	}
	return l, nil
}

// reportedLoad returns what a response says about its backend's load, or nil.
func reportedLoad(h http.Header) *Load {
	values := h[LoadHeader]
	if len(values) == 0 {
		return nil
	}
	return parseLoad(values[0])
}

func parseLoad(value string) *Load {
	l, err := ParseLoad(value)
	if err != nil {
		return nil
	}
	return &l
}
