package mysqltest

import (
	"fmt"
	"strconv"
	"strings"
)

// gtid is a position in MariaDB's form, in domain 0. Its zero value is the
// position before the first write.
type gtid struct {
	server uint32
	seq    uint64
}

func (g gtid) String() string {
	if g.seq == 0 {
		return ""
	}
	return fmt.Sprintf("0-%d-%d", g.server, g.seq)
}

// parsePosition reads a position, a list of GTIDs; of those of one domain, the
// highest counts. A domain other than 0 is never reached, as nothing is written
// there.
func parsePosition(s string) (pos gtid, reachable bool, err error) {
	bad := errorf(1941, "HY000", "Could not parse GTID list")
	reachable = true
	if strings.TrimSpace(s) == "" {
		return gtid{}, true, nil
	}
	for item := range strings.SplitSeq(s, ",") {
		parts := strings.Split(strings.TrimSpace(item), "-")
		if len(parts) != 3 {
			return gtid{}, false, bad
		}
		domain, err1 := strconv.ParseUint(parts[0], 10, 32)
		server, err2 := strconv.ParseUint(parts[1], 10, 32)
		seq, err3 := strconv.ParseUint(parts[2], 10, 64)
		if err1 != nil || err2 != nil || err3 != nil {
			return gtid{}, false, bad
		}
		if domain != 0 {
			reachable = false
			continue
		}
		if seq >= pos.seq {
			pos = gtid{server: uint32(server), seq: seq}
		}
	}
	return pos, reachable, nil
}
