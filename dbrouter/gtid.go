package dbrouter

import (
	"strconv"
	"strings"
)

// maxDomains bounds the work on one position.
const maxDomains = 64

// gtid is one element of a MariaDB position: the last transaction of a
// replication domain, as in "0-1-100" for DOMAIN-SERVER-SEQUENCE. See
// https://mariadb.com/kb/en/gtid/.
type gtid struct {
	domain   uint64
	server   uint64
	sequence uint64
}

func parseGTID(s string) (gtid, bool) {
	var g gtid
	a, rest, ok1 := strings.Cut(s, "-")
	b, c, ok2 := strings.Cut(rest, "-")
	var errs [3]error
	g.domain, errs[0] = strconv.ParseUint(a, 10, 32)
	g.server, errs[1] = strconv.ParseUint(b, 10, 32)
	g.sequence, errs[2] = strconv.ParseUint(c, 10, 64)
	return g, ok1 && ok2 && errs == [3]error{}
}

// covers says whether a MariaDB position has everything that another one has.
// It says no to what it cannot read.
func covers(have, want string) bool {
	n := 0
	for w := range strings.SplitSeq(want, ",") {
		need, ok := parseGTID(w)
		if n++; !ok || n > maxDomains || !reaches(have, need) {
			return false
		}
	}
	return true
}

func reaches(have string, need gtid) bool {
	n := 0
	for h := range strings.SplitSeq(have, ",") {
		got, ok := parseGTID(h)
		if n++; !ok || n > maxDomains {
			return false
		}
		if got.domain == need.domain {
			return got.sequence >= need.sequence
		}
	}
	return false
}
