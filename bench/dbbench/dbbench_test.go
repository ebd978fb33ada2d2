package dbbench

import (
	"os"
	"testing"
	"time"

	"github.com/palisade-go/palisade/bench/internal/report"
	"github.com/palisade-go/palisade/dbrouter/mysqltest/mariadb"
)

// TestRun measures everything once, briefly: no read may be stale but
// dbresolver's, and every target must be of what was measured.
func TestRun(t *testing.T) {
	if err := mariadb.Available(); err != nil {
		if os.Getenv("PALISADE_REQUIRE_ALL") == "1" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	var out report.Section
	o := report.Options{Rounds: 1, Length: time.Millisecond, Log: t.Logf}
	if err := Suite().Run(t.Context(), o, &out); err != nil {
		t.Fatal(err)
	}
	absent := false
	for _, p := range out.Programs {
		absent = absent || p.Name == "haproxy" && p.Absent != ""
	}
	if absent && os.Getenv("PALISADE_REQUIRE_ALL") == "1" {
		t.Error("haproxy is not installed")
	}
	for _, table := range out.Tables {
		for _, row := range table.Rows {
			if row.Program != resolver && row.Values["stale"].Median > 0 {
				t.Errorf("%s: %v %% of the reads of %s were stale", table.Scenario, row.Values["stale"].Median, row.Program)
			}
		}
	}
	for _, v := range report.Judge(targets(), out.Tables) {
		if v.Result == "not measured" && !absent {
			t.Errorf("%s: %s", v.Text, v.Got)
		}
	}
}
