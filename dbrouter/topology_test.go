package dbrouter

import (
	"strings"
	"testing"
	"time"
)

func TestChoosePrimary(t *testing.T) {
	writable := view{looked: true, reachable: true, writable: true}
	readOnly := view{looked: true, reachable: true}
	down := view{looked: true}
	names := []string{"a", "b", "c"}
	for _, c := range []struct {
		about string
		views []view
		last  int
		want  int
		why   string
	}{
		{"one writable", []view{writable, readOnly, readOnly}, -1, 0, ""},
		{"not all looked at", []view{writable, {}, readOnly}, -1, -1, "looked at"},
		{"two writable at the start: ProxySQL #789", []view{writable, writable, readOnly}, -1, -1, "a, b"},
		{"a second becomes writable: ProxySQL #2179", []view{writable, readOnly, writable}, 0, 0, ""},
		{"the primary was demoted, another promoted", []view{readOnly, writable, readOnly}, 0, 1, ""},
		{"the primary is down, another promoted", []view{down, writable, readOnly}, 0, 1, ""},
		{"the primary is down, two are writable", []view{down, writable, writable}, 0, -1, "b, c"},
		{"the primary is down", []view{down, readOnly, readOnly}, 0, -1, "no node is writable"},
		{"all are down", []view{down, down, down}, 0, -1, "no node is writable"},
		{"the old primary is back, writable", []view{writable, writable, readOnly}, 1, 1, ""},
		{"what a node said before it was lost", []view{{looked: true, writable: true}, readOnly, readOnly}, -1, -1, "no node is writable"},
	} {
		got, why := choosePrimary(c.views, names, c.last)
		if got != c.want || !strings.Contains(why, c.why) || (got >= 0) != (why == "") {
			t.Errorf("%s: %d %q, want %d %q", c.about, got, why, c.want, c.why)
		}
	}
}

// TestChoosePrimaryMeanwhile: a node that was just added takes the primary from nobody.
func TestChoosePrimaryMeanwhile(t *testing.T) {
	writable, down := view{looked: true, reachable: true, writable: true}, view{looked: true, trouble: "no answer"}
	if got, _ := choosePrimary([]view{writable, {}}, []string{"a", "b"}, 0); got != 0 {
		t.Errorf("the primary is %d", got)
	}
	_, why := choosePrimary([]view{down, down, down, down}, []string{"a", "b", "c", "d"}, -1)
	if n := strings.Count(why, "is down"); n != maxTroubles {
		t.Errorf("%d troubles are told: %s", n, why)
	}
}

func TestJudge(t *testing.T) {
	primary := view{looked: true, reachable: true, writable: true, serverID: "1"}
	good := view{looked: true, reachable: true, serverID: "2", statusKnown: true, replicating: true, lagKnown: true, sourceID: "1"}
	with := func(f func(*view)) view {
		v := good
		f(&v)
		return v
	}
	for _, c := range []struct {
		about       string
		v           view
		consistency Consistency
		role        Role
		state       State
	}{
		{"healthy", good, Global, Replica, Up},
		{"not looked at", view{}, Global, RoleUnknown, StateUnknown},
		{"down", view{looked: true, trouble: "x"}, Global, RoleUnknown, Down},
		{"a second writable", with(func(v *view) { v.writable = true }), Global, RoleUnknown, Conflict},
		{"within MaxLag", with(func(v *view) { v.lag = time.Second }), Eventual, Replica, Up},
		{"lagging", with(func(v *view) { v.lag = 2 * time.Second }), Eventual, Replica, Lagging},
		{"a thread is stopped", with(func(v *view) { v.replicating = false }), Global, Replica, Stopped},
		{"further behind than is known", with(func(v *view) { v.lagOpen = true }), Eventual, Replica, Lagging},
		{"its source is not told", with(func(v *view) { v.sourceID = "" }), Global, Replica, Up},
		{"NULL lag", with(func(v *view) { v.lagKnown = false }), Global, Replica, Stopped},
		{"status not readable", with(func(v *view) { v.statusKnown = false }), Eventual, Replica, Stopped},
		{"status not readable, but positions prove", with(func(v *view) { v.statusKnown = false }), Global, Replica, Up},
		{"follows another server", with(func(v *view) { v.sourceID = "9" }), Global, Replica, Stopped},
	} {
		role, state, why := judge([]view{primary, c.v}, 1, 0, c.consistency, time.Second)
		if role != c.role || state != c.state {
			t.Errorf("%s: %v %v, want %v %v", c.about, role, state, c.role, c.state)
		}
		if (state == Up) != (why == "") && c.v.trouble == "" && state != Stopped {
			t.Errorf("%s: %v with the reason %q", c.about, state, why)
		}
	}
	// At the start a writable node is no conflict: the others are not known yet.
	if role, state, _ := judge([]view{primary, {}}, 0, -1, Global, time.Second); role != RoleUnknown || state != StateUnknown {
		t.Errorf("writable before all were looked at: %v %v", role, state)
	}
	if _, state, _ := judge([]view{primary, primary}, 0, -1, Global, time.Second); state != Conflict {
		t.Errorf("two writable, none trusted: %v", state)
	}
	// Through another replica it follows the primary too; in a circle it does not.
	middle, far := good, with(func(v *view) { v.serverID, v.sourceID = "3", "2" })
	if !follows([]view{primary, middle, far}, 2, 0) {
		t.Error("a replica of a replica does not follow the primary")
	}
	for about, change := range map[string]func(*view){
		"down": func(v *view) { v.reachable = false }, "writable": func(v *view) { v.writable = true }, "stopped": func(v *view) { v.replicating = false },
	} {
		broken := middle
		if change(&broken); follows([]view{primary, broken, far}, 2, 0) {
			t.Errorf("a replica of one that is %s follows the primary", about)
		}
	}
	middle.sourceID = "3"
	if follows([]view{primary, middle, far}, 2, 0) {
		t.Error("two replicas of each other follow the primary")
	}
}

func TestReadReplication(t *testing.T) {
	null := func(names []string, values ...string) row {
		r := row{names: names, values: values, null: make([]bool, len(values))}
		for i, v := range values {
			r.null[i] = v == "NULL"
		}
		return r
	}
	maria := []string{"Slave_IO_Running", "Slave_SQL_Running", "Seconds_Behind_Master", "Master_Server_Id", "Last_IO_Errno", "Last_SQL_Errno"}
	my := []string{"Replica_IO_Running", "Replica_SQL_Running", "Seconds_Behind_Source", "Source_Server_Id"}
	for _, c := range []struct {
		about string
		rows  []row
		want  view
	}{
		{"no replica", nil, view{statusKnown: true, trouble: "it does not replicate"}},
		{"MariaDB", []row{null(maria, "Yes", "Yes", "3", "1", "0", "0")}, view{statusKnown: true, replicating: true, lagKnown: true, lag: 3 * time.Second, sourceID: "1"}},
		{"MySQL", []row{null(my, "Yes", "Yes", "0", "7")}, view{statusKnown: true, replicating: true, lagKnown: true, sourceID: "7"}},
		{"stopped", []row{null(maria, "No", "Yes", "NULL", "1", "1236", "0")}, view{statusKnown: true, sourceID: "1", trouble: `replication: IO thread "No", SQL thread "Yes", Last_IO_Errno 1236`}},
		{"its source is gone", []row{null(maria, "Connecting", "Yes", "NULL", "1", "2003", "0")}, view{statusKnown: true, sourceID: "1", trouble: `replication: IO thread "Connecting", SQL thread "Yes", Last_IO_Errno 2003`}},
		{"nonsense", []row{null(maria, "Yes", "Yes", "-5", "1", "0", "0")}, view{statusKnown: true, replicating: true, sourceID: "1"}},
		{"other columns", []row{null([]string{"x"}, "Yes")}, view{statusKnown: true, trouble: `replication: IO thread "", SQL thread ""`}},
		{"two sources, the first lags", []row{null(my, "Yes", "Yes", "9", "7"), null(my, "Yes", "Yes", "0", "8")}, view{statusKnown: true, replicating: true, lagKnown: true, lag: 9 * time.Second, sourceID: "8"}},
		{"two sources, the first is stopped", []row{null(my, "Yes", "No", "NULL", "7"), null(my, "Yes", "Yes", "0", "8")}, view{statusKnown: true, sourceID: "8", trouble: `replication: IO thread "Yes", SQL thread "No"`}},
		{"two sources, the second lags", []row{null(my, "Yes", "Yes", "0", "7"), null(my, "Yes", "Yes", "9", "8")}, view{statusKnown: true, replicating: true, lagKnown: true, lag: 9 * time.Second, sourceID: "8"}},
	} {
		var v view
		if v.readReplication(c.rows); v != c.want {
			t.Errorf("%s:\n\t%+v, want\n\t%+v", c.about, v, c.want)
		}
	}
}

func TestDialects(t *testing.T) {
	if got := mySQL.wait("a:1-5", 1500*time.Millisecond); got != "SELECT WAIT_FOR_EXECUTED_GTID_SET('a:1-5', 1.500)" {
		t.Error(got)
	}
	if got := mariaDB.wait("0-1-5", 100*time.Millisecond); got != "SELECT MASTER_GTID_WAIT('0-1-5', 0.100)" {
		t.Error(got)
	}
}
