package dbrouter

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// mark is how far one source of writes has got: a replication domain of
// MariaDB, or a server of MySQL, with a tag maybe.
type mark struct {
	key    string
	server string // MariaDB: who wrote it
	n      uint64
}

// maxMarks bounds a position that is put together from writes.
const maxMarks = maxDomains

// join returns a position that covers both. It is written the way that a server
// can be asked to wait for.
//
// A number of MySQL stands for all before it as well ("1-7" for 7), since a
// server may fill a gap in its numbers later.
func join(d dialect, a, b string) (string, error) {
	marks, err := parseMarks(d, nil, a)
	if err == nil {
		marks, err = parseMarks(d, marks, b)
	}
	if err != nil {
		return "", err
	}
	slices.SortFunc(marks, func(x, y mark) int { return strings.Compare(x.key, y.key) })
	var out strings.Builder
	for i, m := range marks {
		if i > 0 {
			out.WriteByte(',')
		}
		out.WriteString(m.key)
		if d == mariaDB {
			out.WriteString("-" + m.server + "-")
		} else {
			out.WriteString(":1-")
		}
		out.WriteString(strconv.FormatUint(m.n, 10))
	}
	return out.String(), nil
}

// parseMarks adds the marks of a position to those there are.
func parseMarks(d dialect, marks []mark, text string) ([]mark, error) {
	if text == "" {
		return marks, nil
	}
	for element := range strings.SplitSeq(strings.ReplaceAll(text, "\n", ""), ",") {
		more, err := elementMarks(d, element)
		if err != nil {
			return nil, err
		}
		for _, m := range more {
			i := slices.IndexFunc(marks, func(have mark) bool { return have.key == m.key })
			switch {
			case i >= 0 && marks[i].n < m.n:
				marks[i] = m
			case i < 0:
				marks = append(marks, m)
			}
		}
		if len(marks) > maxMarks {
			return nil, fmt.Errorf("dbrouter: a position of more than %d parts", maxMarks)
		}
	}
	return marks, nil
}

func elementMarks(d dialect, element string) ([]mark, error) {
	if d == mariaDB {
		g, ok := parseGTID(element)
		if !ok {
			return nil, fmt.Errorf("dbrouter: not a GTID of MariaDB: %.80q", element)
		}
		return []mark{{key: strconv.FormatUint(g.domain, 10), server: strconv.FormatUint(g.server, 10), n: g.sequence}}, nil
	}
	var out []mark
	err := intervals(strings.TrimSpace(element), func(key string, _, last uint64) {
		if n := len(out); n > 0 && out[n-1].key == key {
			out[n-1].n = max(out[n-1].n, last)
			return
		}
		out = append(out, mark{key: key, n: last})
	})
	return out, err
}

// intervals goes through one element of a MySQL position, such as
// "uuid:1-5:7:tag:1-3". See
// https://dev.mysql.com/doc/refman/8.4/en/replication-gtids-concepts.html.
func intervals(element string, f func(key string, first, last uint64)) error {
	id, rest, ok := strings.Cut(element, ":")
	if !ok || !isUUID(id) {
		return fmt.Errorf("dbrouter: not a GTID of MySQL: %.80q", element)
	}
	key, tagged := strings.ToLower(id), false
	for part := range strings.SplitSeq(rest, ":") {
		part = strings.TrimSpace(part)
		if isTag(part) && !tagged {
			key, tagged = strings.ToLower(id+":"+part), true
			continue
		}
		a, b, two := strings.Cut(part, "-")
		first, err := strconv.ParseUint(a, 10, 63)
		last := first
		if err == nil && two {
			last, err = strconv.ParseUint(b, 10, 63)
		}
		if err != nil || first == 0 || last < first {
			return fmt.Errorf("dbrouter: not a GTID of MySQL: %.80q", element)
		}
		f(key, first, last)
		tagged = false
	}
	if tagged {
		return fmt.Errorf("dbrouter: a GTID without a number: %.80q", element)
	}
	return nil
}

func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (c == '-') || !dash && !(isDigit(c) || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F') {
			return false
		}
	}
	return true
}

// isTag recognises the tag of a GTID (MySQL 8.3): up to 32 letters, digits and
// underscores, no digit first.
func isTag(s string) bool {
	if s == "" || len(s) > 32 || isDigit(s[0]) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c >= 0x80 || c == '$' || !isWord(c) {
			return false
		}
	}
	return true
}

// holds says whether a server's position has the last write of each source that
// the wanted one names, and on MySQL also all before it, if that is asked for.
// It says no to what it cannot read.
func holds(d dialect, have, want string, all bool) bool {
	if want == "" || have == want {
		return true
	}
	if d == mariaDB {
		return covers(have, want)
	}
	wanted, err := parseMarks(d, nil, want)
	if err != nil {
		return false
	}
	for element := range strings.SplitSeq(have, ",") {
		err := intervals(strings.TrimSpace(element), func(key string, first, last uint64) {
			wanted = slices.DeleteFunc(wanted, func(m mark) bool { return m.key == key && first <= m.n && m.n <= last && (first == 1 || !all) })
		})
		if err != nil {
			return false
		}
	}
	return len(wanted) == 0
}
