package main

import "strings"

// split cuts a script into statements at the semicolons that are not in quotes
// or comments. A statement may have semicolons by "DELIMITER x", as for the
// mysql client. What has nothing but comments is none, unless servers execute them.
func split(script string) []string {
	var out []string
	script = strings.TrimPrefix(script, "\ufeff") // of a file from Windows
	delimiter := ";"
	var current strings.Builder
	empty := true
	flush := func() {
		if !empty {
			out = append(out, strings.TrimSpace(current.String()))
		}
		current.Reset()
		empty = true
	}
	for rest := script; rest != ""; {
		if empty && rest[0]|0x20 == 'd' && lineBegins(current.String()) {
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
		empty = empty && (isComment(rest[:n]) || strings.TrimSpace(rest[:n]) == "")
		current.WriteString(rest[:n])
		rest = rest[n:]
	}
	flush()
	return out
}

// lineBegins says whether what follows on a text without a statement may be a
// line of its own.
func lineBegins(before string) bool {
	before = strings.TrimRight(before, " \t")
	return before == "" || strings.HasSuffix(before, "\n")
}

// isComment says whether a piece is a comment that servers do not execute.
func isComment(piece string) bool {
	switch {
	case strings.HasPrefix(piece, "/*"):
		return !strings.HasPrefix(piece, "/*!") && !strings.HasPrefix(strings.ToUpper(piece[:min(len(piece), 4)]), "/*M!")
	case strings.HasPrefix(piece, "#"):
		return true
	}
	return dashes(piece)
}

// dashes says whether a comment by two dashes begins s: white space or the end
// must follow.
func dashes(s string) bool {
	return strings.HasPrefix(s, "--") && (len(s) == 2 || s[2] <= ' ')
}

// delimiterLine reads a line such as "DELIMITER //".
func delimiterLine(s string) (delimiter, after string, ok bool) {
	line, after, _ := strings.Cut(s, "\n")
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
	case s[0] == '#', dashes(s):
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
