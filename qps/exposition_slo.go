package qps

import (
	"strconv"
	"strings"
	"time"
)

// slos writes burn rates, each window once, and which alerts are firing.
func (e *exposition) slos() {
	rates := e.family("slo_burn_rate", "gauge", "Share of bad requests in the window divided by the share that the objective allows.")
	e.eachSLO(func(o SLOSnapshot, server string) {
		seen := make(map[time.Duration]bool)
		rate := func(window time.Duration, value float64) {
			if !seen[window] {
				seen[window] = true
				rates.sample("", labels("server", server, "slo", o.SLO, "window", short(window)), float(value))
			}
		}
		for _, b := range o.Burns {
			rate(b.Long, b.LongRate)
			rate(b.Short, b.ShortRate)
		}
	})
	firing := e.family("slo_alert_firing", "gauge", "Whether the burn rate is above the limit in both windows: 1 or 0.")
	e.eachSLO(func(o SLOSnapshot, server string) {
		seen := make(map[float64]bool)
		for _, b := range o.Burns {
			if seen[b.Limit] {
				continue
			}
			seen[b.Limit] = true
			value := "0"
			if b.Firing {
				value = "1"
			}
			firing.sample("", labels("server", server, "slo", o.SLO, "limit", float(b.Limit)), value)
		}
	})
	target := e.family("slo_target_ratio", "gauge", "Share of good requests that is the objective.")
	e.eachSLO(func(o SLOSnapshot, server string) {
		target.sample("", labels("server", server, "slo", o.SLO), float(o.Target))
	})
}

func (e *exposition) eachSLO(do func(o SLOSnapshot, server string)) {
	for _, s := range e.snaps {
		for _, o := range s.SLOs {
			do(o, s.Server)
		}
	}
}

func float(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

// short writes a duration as people do: 1h, not 1h0m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
