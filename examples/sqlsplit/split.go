package main

import "strings"

// split cuts a script into statements at the semicolons that are not in quotes
// or comments. A statement may have semicolons by "DELIMITER x", as for the
// mysql client.
func split(script string) []string {
	var out []string
	delimiter := ";"
	var current strings.Builder
	flush := func() {
		if s := strings.TrimSpace(current.String()); s != "" {
			out = append(out, s)
		}
		current.Reset()
	}
	for rest := script; rest != ""; {
		if strings.TrimSpace(current.String()) == "" {
			if d, after, ok := delimiterLine(rest); ok {
				delimiter, rest = d, after
				continue
			}
		}
		if after, ok := strings.CutPrefix(rest, delimiter); ok {
			flush()
			rest = after
			continue
		}
		n := piece(rest)
		current.WriteString(rest[:n])
		rest = rest[n:]
	}
	flush()
	return out
}

// delimiterLine reads a line such as "DELIMITER //".
func delimiterLine(s string) (delimiter, after string, ok bool) {
	line, after, _ := strings.Cut(strings.TrimLeft(s, " \t\r\n"), "\n")
	fields := strings.Fields(line)
	if len(fields) != 2 || !strings.EqualFold(fields[0], "DELIMITER") {
		return "", "", false
	}
	return fields[1], after, true
}

// piece is the length of what begins s and must not be cut: a quoted text, a
// comment, or a single byte.
func piece(s string) int {
	end := func(from int, mark string) int {
		if i := strings.Index(s[from:], mark); i >= 0 {
			return from + i + len(mark)
		}
		return len(s)
	}
	switch {
	case strings.HasPrefix(s, "/*"):
		return end(2, "*/")
	case s[0] == '#', strings.HasPrefix(s, "-- "), strings.HasPrefix(s, "--\n"):
		return end(1, "\n")
	case s[0] == '\'', s[0] == '"', s[0] == '`':
		for i := 1; i < len(s); i++ {
			switch {
			case s[i] == '\\' && s[0] != '`':
				i++
			case s[i] == s[0]:
				return i + 1
			}
		}
		return len(s)
	}
	return 1
}
