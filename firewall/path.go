package firewall

import (
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"
)

const (
	maxViews     = 32      // readings of one path
	maxPathBytes = 2 << 10 // of a path that has more than one reading
)

// views are the readings of one request path: what the servers of this world
// might take it for.
type views struct {
	plain  string   // the only one, unless empty
	paths  []string // else all of them, percent-decoded at least once
	opaque bool     // too odd to tell
}

// viewsOf returns the readings of the path of a request.
func viewsOf(u *url.URL) views {
	decoded := u.Path
	if decoded == "" {
		decoded = "/"
	}
	if u.Opaque != "" {
		return views{opaque: true}
	}
	if u.RawPath == "" && isPlain(decoded) {
		return views{plain: decoded}
	}
	return readings(u.EscapedPath(), decoded)
}

// isPlain says whether every server reads a decoded path in the same way.
func isPlain(p string) bool {
	if p == "*" {
		return true
	}
	if p[0] != '/' {
		return false
	}
	for i := range len(p) {
		switch c := p[i]; {
		case c == '%', c == '\\', c == ';', c == '?', c == '#', isOdd(p, i):
			return false
		case c == '/' && i+1 < len(p):
			if next := p[i+1]; next == '/' || next == '.' {
				return false
			}
		}
	}
	return true
}

// isOdd says whether the byte at i makes a path unreadable: a control
// character, at which some servers end the path, or the lead byte of an ASCII
// character in overlong UTF-8.
func isOdd(p string, i int) bool {
	c := p[i]
	return c < ' ' || c == 0x7f || (c == 0xc0 || c == 0xc1) && i+1 < len(p) && p[i+1]&0xc0 == 0x80
}

// reading is a path on its way through the steps. It counts as a view once it
// has been decoded, which every server does.
type reading struct {
	path    string
	decoded bool
}

// readings takes the steps that servers take in every order, until nothing new
// comes out. A path with too many readings is opaque: nobody needs one.
func readings(raw, decoded string) views {
	if len(raw) > maxPathBytes || len(decoded) > maxPathBytes {
		return views{opaque: true}
	}
	var v views
	seen := make([]reading, 0, maxViews)
	add := func(p string, decoded bool) {
		r := reading{path: p, decoded: decoded || !strings.Contains(p, "%")}
		if slices.Contains(seen, r) {
			return
		}
		for i := range len(p) {
			v.opaque = v.opaque || isOdd(p, i)
		}
		if len(seen) == maxViews {
			v.opaque = true
			return
		}
		seen = append(seen, r)
	}
	add(decoded, true)
	add(raw, false)
	for i := 0; i < len(seen) && !v.opaque; i++ {
		from := seen[i]
		add(decodeOnce(from.path), true)
		for _, step := range []func(string) string{backslashes, withoutParameters, mergeSlashes, resolveDots, beforeQuery} {
			add(step(from.path), from.decoded)
		}
		if from.decoded {
			v.paths = append(v.paths, from.path)
		}
	}
	return v
}

// decodeOnce takes away one layer of percent-encoding and leaves alone what is
// not an escape.
func decodeOnce(p string) string {
	if !strings.Contains(p, "%") {
		return p
	}
	out := make([]byte, 0, len(p))
	for i := 0; i < len(p); i++ {
		if p[i] == '%' && i+2 < len(p) {
			hi, lo := unhex(p[i+1]), unhex(p[i+2])
			if hi < 16 && lo < 16 {
				out = append(out, hi<<4|lo)
				i += 2
				continue
			}
		}
		out = append(out, p[i])
	}
	return string(out)
}

// unhex returns 16 for what is not a hexadecimal digit.
func unhex(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10
	}
	return 16
}

// backslashes turns them into slashes, as servers on Windows do.
func backslashes(p string) string { return strings.ReplaceAll(p, `\`, "/") }

// withoutParameters takes ";x" off every segment, as servlet containers do.
func withoutParameters(p string) string {
	if !strings.Contains(p, ";") {
		return p
	}
	segments := strings.Split(p, "/")
	for i, s := range segments {
		segments[i], _, _ = strings.Cut(s, ";")
	}
	return strings.Join(segments, "/")
}

func mergeSlashes(p string) string {
	if !strings.Contains(p, "//") {
		return p
	}
	out := make([]byte, 0, len(p))
	for i := range len(p) {
		if p[i] != '/' || i == 0 || p[i-1] != '/' {
			out = append(out, p[i])
		}
	}
	return string(out)
}

// resolveDots removes the segments "." and ".." as RFC 3986 section 5.2.4 does;
// it does not merge slashes.
func resolveDots(p string) string {
	if !strings.Contains(p, "/.") {
		return p
	}
	var out []string
	segments := strings.Split(strings.TrimPrefix(p, "/"), "/")
	for i, s := range segments {
		last := i == len(segments)-1
		switch s {
		case ".":
		case "..":
			if len(out) > 0 {
				out = out[:len(out)-1]
			}
		default:
			out = append(out, s)
			continue
		}
		if last {
			out = append(out, "") // a directory: its slash stays
		}
	}
	return "/" + strings.Join(out, "/")
}

// beforeQuery ends the path where a server that parses it again would.
func beforeQuery(p string) string {
	if i := strings.IndexAny(p, "?#"); i >= 0 {
		return p[:i]
	}
	return p
}

// match compares all readings with a pattern. compare says whether one of them
// matches exactly.
func (v *views) match(pattern string, compare func(path, pattern string) truth) truth {
	if v.opaque {
		return unknown
	}
	if v.plain != "" {
		return compare(v.plain, pattern)
	}
	most, least := no, yes
	for _, p := range v.paths {
		t := compare(p, pattern)
		most, least = max(most, t), min(least, t)
	}
	if most != least {
		return unknown
	}
	return most
}

// pathIs compares a path with a whole pattern. Another case and a slash more or
// less at the end are unknown: they name the same thing on some servers.
func pathIs(p, pattern string) truth {
	switch {
	case p == pattern:
		return yes
	case strings.EqualFold(strings.TrimSuffix(p, "/"), strings.TrimSuffix(pattern, "/")):
		return unknown
	}
	return no
}

// pathBelow compares a path with a prefix that has no slash at its end.
func pathBelow(p, prefix string) truth {
	if p == prefix || strings.HasPrefix(p, prefix) && p[len(prefix)] == '/' {
		return yes
	}
	// Folding can change the length of a character, so both are cut by
	// segments rather than by bytes.
	segments := strings.Count(prefix, "/")
	end := 0
	for i := range len(p) {
		if p[i] == '/' {
			if segments == 0 {
				end = i
				break
			}
			segments--
		}
		end = i + 1
	}
	if segments == 0 && strings.EqualFold(p[:end], prefix) {
		return unknown
	}
	return no
}

// checkPattern refuses a pattern that is not written as paths are read, since
// it would never match.
func checkPattern(function, pattern string) []error {
	bare := pattern
	if len(pattern) > 1 {
		bare = strings.TrimSuffix(pattern, "/")
	}
	bad := !strings.HasPrefix(bare, "/") || path.Clean(bare) != bare || bare == "/" && pattern != "/" || strings.ContainsAny(bare, `%\;?#`)
	for i := range len(bare) {
		bad = bad || isOdd(bare, i)
	}
	if bad {
		return []error{fmt.Errorf(`%s(%q), want a decoded path that starts with / and has no dot segments, empty segments or any of %%\;?#`, function, clip(pattern))}
	}
	return nil
}
