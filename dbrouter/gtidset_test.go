package dbrouter

import (
	"fmt"
	"strings"
	"testing"
)

const other = "4e11fa47-71ca-11e1-9e33-c80aa9429562"

// parts is a position of n parts.
func parts(d dialect, n int) string {
	var all []string
	for i := range n {
		if d == mariaDB {
			all = append(all, fmt.Sprintf("%d-4294967295-18446744073709551615", 4000000000+i))
		} else {
			all = append(all, fmt.Sprintf("3e11fa47-71ca-11e1-9e33-c80aa9%06d:1-9223372036854775807", i))
		}
	}
	return strings.Join(all, ",")
}

func TestJoin(t *testing.T) {
	for _, c := range []struct {
		d          dialect
		a, b, want string
	}{
		{mariaDB, "", "", ""},
		{mariaDB, "", "0-1-7", "0-1-7"},
		{mariaDB, "0-1-7", "0-2-6", "0-1-7"},
		{mariaDB, "0-1-7", "0-2-8", "0-2-8"},
		{mariaDB, "1-1-7", "0-2-8,2-2-2", "0-2-8,1-1-7,2-2-2"},
		{mySQL, "", uuid + ":5", uuid + ":1-5"},
		{mySQL, uuid + ":1-5", uuid + ":3", uuid + ":1-5"},
		{mySQL, other + ":9", uuid + ":1-3:5-7", uuid + ":1-7," + other + ":1-9"},
		{mySQL, strings.ToUpper(uuid) + ":5", uuid + ":3", uuid + ":1-5"},
		{mySQL, uuid + ":" + strings.Repeat("t", 32) + ":4", "", uuid + ":" + strings.Repeat("t", 32) + ":1-4"},
		{mySQL, uuid + ":1:Tag:4", uuid + ":tag:9", uuid + ":1-1," + uuid + ":tag:1-9"},
	} {
		got, err := join(c.d, c.a, c.b)
		if err != nil || got != c.want {
			t.Errorf("join(%q, %q) is %q, %v, want %q", c.a, c.b, got, err, c.want)
		}
	}
	for _, bad := range []string{"x", "0-1", "0-1-x", uuid + ":1", "0-1-7;", "0-1-7,", "4294967296-1-7", "0-4294967296-7", "0-1-18446744073709551616", "0-1-7-1", "-1-7", parts(mariaDB, maxMarks+1)} {
		if got, err := join(mariaDB, "0-1-7", bad); err == nil {
			t.Errorf("MariaDB %q: %q", bad, got)
		}
	}
	for _, bad := range []string{"0-1-7", uuid, uuid + ":0", uuid + ":5-4", uuid + ":1-2-3", uuid + ":", uuid[1:] + ":1", uuid + ":1:a b", uuid + ":tag", uuid + ":1:tag", uuid + ":a:b:1", uuid + ":$:1", uuid + ":ä:1", uuid + ":1-9223372036854775808", uuid + ":" + strings.Repeat("t", 33) + ":4", "3e11fa47-71ca-11e1-9e33-c80aa942956g:1", "3e11fa47-71ca-11e1-9e33xc80aa9429562:1", parts(mySQL, maxMarks+1)} {
		if got, err := join(mySQL, "", bad); err == nil {
			t.Errorf("MySQL %q: %q", bad, got)
		}
	}
}

func TestHolds(t *testing.T) {
	for _, c := range []struct {
		d           dialect
		have, want  string
		last, every bool
	}{
		{mariaDB, "0-1-7", "0-1-7", true, true},
		{mariaDB, "0-1-7,1-1-1", "0-1-6", true, true},
		{mariaDB, "0-1-7", "0-1-8", false, false},
		{mariaDB, "0-1-7", "1-1-1", false, false},
		{mariaDB, "", "0-1-7", false, false},
		{mariaDB, "0-1-7", "", true, true},
		{mySQL, uuid + ":1-9", uuid + ":1-8", true, true},
		{mySQL, uuid + ":1-9", uuid + ":1-10", false, false},
		{mySQL, other + ":1-99," + uuid + ":1-9", uuid + ":1-8", true, true},
		{mySQL, uuid + ":1-5:7", uuid + ":1-7", true, false},
		{mySQL, uuid + ":1-9", uuid + ":tag:1-2", false, false},
		{mySQL, uuid + ":1-9:tag:1-5", uuid + ":tag:1-2", true, true},
		{mySQL, uuid + ":5-9", uuid + ":1-3", false, false},
		{mySQL, "junk", uuid + ":1-2", false, false},
		{mySQL, uuid + ":1-9", "junk", false, false},
	} {
		if got := holds(c.d, c.have, c.want, false); got != c.last {
			t.Errorf("holds(%q, %q, last) is %v", c.have, c.want, got)
		}
		if got := holds(c.d, c.have, c.want, true); got != c.every {
			t.Errorf("holds(%q, %q, all) is %v", c.have, c.want, got)
		}
	}
}

// FuzzJoin: what is joined covers both, and joining again adds nothing.
func FuzzJoin(f *testing.F) {
	f.Add("0-1-7", "0-2-9,3-1-1", true)
	f.Add(uuid+":1-5:7", other+":9,"+uuid+":tag:3", false)
	f.Fuzz(func(t *testing.T, a, b string, maria bool) {
		d := mySQL
		if maria {
			d = mariaDB
		}
		c, err := join(d, a, b)
		if err != nil {
			return
		}
		if !holds(d, c, a, true) || !holds(d, c, b, true) {
			t.Errorf("%q does not hold %q and %q", c, a, b)
		}
		for _, x := range []string{a, b, c} {
			if again, err := join(d, c, x); err != nil || again != c {
				t.Errorf("%q joined with %q is %q, %v", c, x, again, err)
			}
		}
		if clean, err := cleanPosition(c); err != nil || clean != c {
			t.Errorf("%q: %v", c, err)
		}
	})
}
