package mysqltest

import "testing"

func TestParseSet(t *testing.T) {
	const a, b = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-00000000000A"
	for _, c := range []struct {
		text, want string
		reachable  bool
		bad        bool
	}{
		{"", "", true, false},
		{a + ":1", a + ":1", true, false},
		{a + ":1-5", a + ":1-5", true, false},
		{a + ":2-3:7, " + b + ":1-2", a + ":1-7," + "00000000-0000-0000-0000-00000000000a:1-2", true, false},
		{a + ":9-2", "", true, false},
		{"3e11fa47-71ca-11e1-9e33-c80aa9429562:1", "", false, false},
		{a, "", false, true},
		{a + ":", "", false, true},
		{a + ":0", "", false, true},
		{a + ":x", "", false, true},
		{"1:1", "", false, true},
		{"0-1-7", "", false, true},
	} {
		got, reachable, err := parseSet(c.text)
		if (err != nil) != c.bad || !c.bad && reachable != c.reachable || !c.bad && reachable && got.String() != c.want {
			t.Errorf("%q: %q, %v, %v", c.text, got, reachable, err)
		}
	}
}

func FuzzParseSet(f *testing.F) {
	f.Add("00000000-0000-0000-0000-000000000001:1-5:7")
	f.Fuzz(func(t *testing.T, text string) {
		set, reachable, err := parseSet(text)
		if err != nil || !reachable {
			return
		}
		again, _, err := parseSet(set.String())
		if err != nil || again.String() != set.String() {
			t.Errorf("%q: %q, then %q, %v", text, set, again, err)
		}
	})
}

// TestMySQLGTIDs: each server's writes are numbered from 1, also after a
// switchover.
func TestMySQLGTIDs(t *testing.T) {
	s, r, _, _ := pair(t, Config{Version: "8.4.0"}, Config{Version: "8.4.0"})
	db, replica := open(t, s), open(t, r)
	const one1, two1 = "00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-000000000002"
	exec(t, db, insert, "a", "1")
	exec(t, db, insert, "b", "1")
	if got := one(t, replica, "SELECT WAIT_FOR_EXECUTED_GTID_SET('"+one1+":1-2', 10)"); got != int64(0) {
		t.Errorf("waited: %v", got)
	}
	if got := one(t, replica, "SELECT WAIT_FOR_EXECUTED_GTID_SET('"+one1+":3', 0.02)"); got != int64(1) {
		t.Errorf("waited for what is not there: %v", got)
	}
	if got := one(t, db, "SELECT WAIT_FOR_EXECUTED_GTID_SET('3e11fa47-71ca-11e1-9e33-c80aa9429562:1', 0.02)"); got != int64(1) {
		t.Errorf("waited for a stranger: %v", got)
	}
	wantCode(t, db, 1772, "SELECT WAIT_FOR_EXECUTED_GTID_SET('0-1-2', 1)")
	got := slave(t, replica, "SHOW REPLICA STATUS")
	if got["Executed_Gtid_Set"] != one1+":1-2" || got["Retrieved_Gtid_Set"] != one1+":1-2" {
		t.Errorf("%v", got)
	}
	s.SetReadOnly(true)
	if err := r.Follow(nil); err != nil {
		t.Fatal(err)
	}
	r.SetReadOnly(false)
	exec(t, replica, insert, "c", "1")
	const both = one1 + ":1-2," + two1 + ":1"
	if got := one(t, replica, "SELECT @@global.gtid_executed"); got != both || r.Position() != both {
		t.Errorf("after the switchover %v, %s", got, r.Position())
	}
	if err := s.Follow(r); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the old one follows", func() bool { return s.Position() == both })
	exec(t, db, "SET GLOBAL gtid_mode=OFF")
	wantCode(t, db, 3111, "SELECT WAIT_FOR_EXECUTED_GTID_SET('"+one1+":1', 1)")
	if got := one(t, db, "SELECT @@gtid_mode"); got != "OFF" {
		t.Errorf("gtid_mode is %v", got)
	}
}
