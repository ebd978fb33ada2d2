package dbrouter

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"github.com/palisade-go/palisade/dbrouter/mysqltest"
)

// soundExams are those of a primary and a replica without a mistake.
func soundExams() []exam {
	grants := []string{"GRANT USAGE ON *.* TO `app`@`%` IDENTIFIED BY PASSWORD '*1'", "GRANT ALL PRIVILEGES ON `app`.* TO `app`@`%`"}
	v := view{looked: true, reachable: true, dialect: mariaDB, serverID: "1", writable: true, positions: true}
	replica := v
	replica.serverID, replica.writable = "2", false
	replica.statusKnown, replica.replicating, replica.sourceID = true, true, "1"
	return []exam{
		{node: "db1", view: v, version: "10.11.6-MariaDB-log", account: "app@%", grants: grants, tracked: true},
		{node: "db2", view: replica, version: "10.11.6-MariaDB", account: "app@%", grants: grants, tracked: true},
	}
}

func TestProblems(t *testing.T) {
	mysqlOf := func(e *exam) { e.dialect, e.version = mySQL, "8.0.36" }
	for _, c := range []struct {
		about  string
		change func([]exam)
		want   []string // what and how, of each problem
	}{
		{"sound", func([]exam) {}, nil},
		{"sound MySQL", func(e []exam) { mysqlOf(&e[0]); mysqlOf(&e[1]) }, nil},
		{"READ_ONLY ADMIN", func(e []exam) {
			e[1].grants = []string{"GRANT SELECT, READ_ONLY ADMIN ON *.* TO `app`@`%`"}
		}, []string{"app@% has READ_ONLY ADMIN; REVOKE READ_ONLY ADMIN"}},
		{"all privileges", func(e []exam) {
			e[0].grants = []string{"GRANT ALL PRIVILEGES ON *.* TO `app`@`%` WITH GRANT OPTION"}
		}, []string{"has ALL PRIVILEGES; REVOKE ALL PRIVILEGES"}},
		{"SUPER, harmless", func(e []exam) { e[0].grants = []string{"GRANT SUPER ON *.* TO `app`@`%`"} }, nil},
		{"SUPER before 10.11", func(e []exam) {
			e[0].grants, e[0].version = []string{"GRANT SUPER ON *.* TO `app`@`%`"}, "10.6.1-MariaDB"
		}, []string{"has SUPER; REVOKE SUPER"}},
		{"SUPER of MySQL", func(e []exam) {
			mysqlOf(&e[0])
			e[0].grants = []string{"GRANT SELECT, SUPER ON *.* TO `app`@`%`", "GRANT CONNECTION_ADMIN ON *.* TO `app`@`%`"}
		}, []string{"has SUPER; REVOKE SUPER", "has CONNECTION_ADMIN; REVOKE CONNECTION_ADMIN"}},
		{"not tracked", func(e []exam) { e[0].tracked = false }, []string{"session tracking is off; connect without compression"}},
		{"no GTIDs of MySQL", func(e []exam) { mysqlOf(&e[0]); e[0].positions = false }, []string{"gtid_mode is not ON; gtid_mode=ON"}},
		{"no binary log", func(e []exam) { e[0].positions = false }, []string{"log_bin is off; set log_bin"}},
		{"two writable", func(e []exam) { e[1].writable = true }, []string{"it is writable, as are db2; set read_only=1", "it is writable, as are db1; set read_only=1"}},
		{"another primary", func(e []exam) { e[1].sourceID = "9" }, []string{"replica of another primary, server ID 9; replicate from db1, server ID 1"}},
		{"no replica", func(e []exam) { e[1].sourceID = "" }, []string{"replicates from no server; replicate from db1"}},
		{"READ ONLY ADMIN, as MariaDB spells it", func(e []exam) {
			e[1].grants = []string{"GRANT READ ONLY ADMIN ON *.* TO `app`@`%`"}
		}, []string{"has READ ONLY ADMIN; REVOKE READ ONLY ADMIN"}},
		{"not allowed to see the replication", func(e []exam) { e[1].statusKnown, e[1].sourceID = false, "" }, nil},
		{"just new enough", func(e []exam) { e[1].version = "10.5.2-MariaDB" }, nil},
		{"just too old", func(e []exam) { e[1].version = "10.5.1-MariaDB" }, []string{"too old; MariaDB 10.5.2"}},
		{"too old", func(e []exam) { e[1].version = "10.4.99-MariaDB" }, []string{"10.4.99-MariaDB\" is too old; MariaDB 10.5.2"}},
		{"too old MySQL", func(e []exam) { mysqlOf(&e[0]); e[0].version = "8.0.21" }, []string{"too old; MySQL 8.0.22"}},
		{"a writable node that failed then", func(e []exam) { e[1].writable, e[1].err = true, context.DeadlineExceeded }, nil},
		{"a replica of another primary that failed then", func(e []exam) { e[1].sourceID, e[1].err = "9", context.DeadlineExceeded }, nil},
		{"no primary", func(e []exam) { e[0].writable, e[1].sourceID = false, "9" }, nil},
		{"a node that was not asked", func(e []exam) { e[1] = exam{node: "db2", err: context.DeadlineExceeded} }, nil},
	} {
		exams := soundExams()
		c.change(exams)
		var got []*Problem
		for _, e := range exams {
			if e.err == nil {
				got = append(got, e.problems()...)
			}
		}
		got = append(got, topologyProblems(exams)...)
		if len(got) != len(c.want) {
			t.Errorf("%s: %d problems, want %d: %v", c.about, len(got), len(c.want), got)
			continue
		}
		for i, p := range got {
			what, mend, _ := strings.Cut(c.want[i], "; ")
			if !strings.Contains(p.What, what) || !strings.Contains(p.Mend, mend) || !strings.Contains(p.Error(), p.Node) {
				t.Errorf("%s: %v", c.about, p)
			}
		}
	}
}

func TestVersionOf(t *testing.T) {
	for s, want := range map[string][3]int{"10.11.6-MariaDB-log": {10, 11, 6}, "8.0.36": {8, 0, 36}, "9.1": {9, 1, 0}, "9.1-rc.2": {9, 1, 0}, "8.0.22rc": {8, 0, 22}, "": {}, "x.y.z": {}, "99999999999999999999": {1<<63 - 1}} {
		if got := versionOf(s); got != want {
			t.Errorf("%q: %v, want %v", s, got, want)
		}
	}
}

func TestCheck(t *testing.T) {
	p := newPair(t)
	r, _ := open(t, p.config())
	upReplicas(t, r, 1)
	if err := r.Check(t.Context()); err != nil {
		t.Errorf("sound: %v", err)
	}
	grants := mysqltest.HandlerFunc(func(context.Context, mysqltest.Query) (mysqltest.Result, error) {
		return mysqltest.Result{Columns: mysqltest.Columns("Grants"), Rows: [][]any{{"GRANT READ_ONLY ADMIN ON *.* TO `test`@`%`"}}}, nil
	})
	other, err := mysqltest.New(mysqltest.Config{Handler: grants, Version: "10.4.1-MariaDB", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := r.AddNode(Node{Name: "db3", Config: other.Config()}); err != nil {
		t.Fatal(err)
	}
	err = r.Check(t.Context())
	problem, ok := errors.AsType[*Problem](err)
	if !ok || problem.Node != "db3" {
		t.Errorf("%v", err)
	}
	for _, want := range []string{"too old", "READ_ONLY ADMIN", "db1: it is writable", "db3: it is writable"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not told: %v", want, err)
		}
	}
	other.Kill()
	if _, ok := errors.AsType[*NodeError](r.Check(t.Context())); !ok {
		t.Error("a dead node is not told")
	}
	r.Close()
	if err := r.Check(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
