//go:build figures

package lb

import (
	"fmt"
	"strings"
	"testing"
)

// TestSimulationTable prints the table on which the default rests:
//
//	go test -tags figures ./lb -run SimulationTable -v
func TestSimulationTable(t *testing.T) {
	models := []simulation{
		{balancers: 1, backends: 10, load: 0.7, requests: 60_000},
		{balancers: 1, backends: 10, load: 0.85, requests: 60_000},
		{balancers: 20, backends: 10, load: 0.85, requests: 60_000},
		{balancers: 100, backends: 100, load: 0.85, requests: 150_000},
	}
	var head strings.Builder
	fmt.Fprintf(&head, "%-30s", "p99 in ms, median of 5 seeds")
	for _, m := range models {
		fmt.Fprintf(&head, " %12s", fmt.Sprintf("%d×%d, %.0f%%", m.balancers, m.backends, 100*m.load))
	}
	t.Log(head.String())
	simRandom := simPolicy{name: "Random", strategy: Random{}}
	for _, p := range []simPolicy{simRandom, simRoundRobin, simP2C, simPeak, simBlind, simLeast, simReports, simProbes} {
		var row strings.Builder
		fmt.Fprintf(&row, "%-30s", p.name)
		for _, m := range models {
			fmt.Fprintf(&row, " %12.0f", m.p99(t, p, 5).Seconds()*1000)
		}
		t.Log(row.String())
	}
}
