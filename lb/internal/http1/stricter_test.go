package http1

import (
	"bytes"
	"strconv"
	"strings"
)

// The list of what this package refuses and net/http does not. It finds the
// reason in the bytes, with a reading of its own: neither parser is asked.

// headOf splits a head into lines, which may end without CR.
func headOf(message []byte) (lines []string, rest []byte, bareLF bool) {
	for {
		line, after, ok := bytes.Cut(message, []byte("\n"))
		if !ok {
			return lines, nil, bareLF
		}
		message = after
		line, cr := bytes.CutSuffix(line, []byte("\r"))
		bareLF = bareLF || !cr
		if len(line) == 0 {
			return lines, message, bareLF
		}
		lines = append(lines, string(line))
	}
}

// valuesOf returns the values of a field, whose name may be in any case.
func valuesOf(lines []string, name string) (values []string) {
	for _, line := range lines {
		if n, v, ok := strings.Cut(line, ":"); ok && strings.EqualFold(n, name) {
			values = append(values, strings.Trim(v, " \t"))
		}
	}
	return values
}

// whyRequest is the reason for which a request's head is refused, "" for none.
func whyRequest(message []byte) string {
	lines, _, bareLF := headOf(message)
	if len(lines) == 0 {
		return ""
	}
	start := strings.Split(lines[0], " ")
	switch version := start[len(start)-1]; {
	case version != "HTTP/1.1" && version != "HTTP/1.0":
		return "another version"
	case strings.HasPrefix(lines[0], "CONNECT  "):
		return "CONNECT without a target"
	case start[0] == "CONNECT" && version == "HTTP/1.1" && len(valuesOf(lines[1:], "Host")) == 0:
		return "CONNECT without Host"
	}
	return whyHead(lines, bareLF)
}

// whyResponse is the same for a response.
func whyResponse(message []byte) string {
	lines, _, bareLF := headOf(message)
	if len(lines) == 0 {
		return ""
	}
	version, status, _ := strings.Cut(lines[0], " ")
	switch {
	case version != "HTTP/1.1" && version != "HTTP/1.0":
		return "another version"
	case strings.HasPrefix(status, " "):
		return "more than one space"
	case status == "" || !strings.ContainsAny(status[:1], "123456789"):
		return "a status below 100, or signed"
	case strings.ContainsFunc(lines[0], func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }):
		return "a control character in the reason"
	}
	for _, line := range lines[1:] {
		name, _, _ := strings.Cut(line, ":")
		letters := strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' {
				return r
			}
			return -1
		}, strings.ToLower(name))
		if strings.Contains(name, " ") && (letters == "contentlength" || letters == "transferencoding") {
			return "spaces in the name of a framing field"
		}
	}
	return whyHead(lines, bareLF)
}

// whyHead looks for what both kinds of messages have.
func whyHead(lines []string, bareLF bool) string {
	lengths := valuesOf(lines[1:], "Content-Length")
	codings := valuesOf(lines[1:], "Transfer-Encoding")
	switch {
	case bareLF:
		return "a bare LF"
	case folded(lines[1:]):
		return "a fold"
	case len(codings) > 0 && len(lengths) > 0:
		return "a coding and a length"
	case len(codings) > 0 && strings.Contains(lines[0], "HTTP/1.0"):
		return "a coding in HTTP/1.0"
	case len(lengths) > 1:
		return "two lengths"
	case len(lengths) == 1 && len(lengths[0]) > 19:
		return "a length of more than 19 digits"
	case len(lines) > maxFields+1:
		return "too many fields"
	}
	return ""
}

func folded(lines []string) bool {
	for _, line := range lines {
		if line[0] == ' ' || line[0] == '\t' {
			return true
		}
	}
	return false
}

// whyNot knows no reason.
func whyNot([]byte) string { return "" }

// whyChunks is the reason for which a chunked body is refused, or its trailer.
func whyChunks(message []byte) string {
	_, rest, _ := headOf(message)
	overhead := 0
	for {
		line, after, ok := bytes.Cut(rest, []byte("\r\n"))
		if !ok {
			return ""
		}
		size, digits := hexOf(line)
		extension := bytes.Trim(line[digits:], " \t")
		switch {
		case len(line) > maxChunkLine:
			return "a chunk's line is too long"
		case digits < len(line) && len(extension) == 0:
			return "white space after a chunk's size"
		case bytes.ContainsFunc(extension, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }):
			return "a control character in an extension"
		case digits == 0 || size < 0:
			return ""
		}
		if size == 0 {
			return whyTrailer(after)
		}
		if overhead = max(0, overhead+len(line)+4-16-min(2*size, maxOverhead)); overhead > maxOverhead {
			return "chunks with more around them than in them"
		}
		if len(after) < size+2 {
			return ""
		}
		rest = after[size+2:]
	}
}

// hexOf reads the digits that a chunk's line begins with. A size that is too
// large for any test is -1.
func hexOf(line []byte) (size, digits int) {
	for digits < len(line) && strings.IndexByte("0123456789abcdefABCDEF", line[digits]) >= 0 {
		digits++
	}
	n, err := strconv.ParseInt(string(line[:digits]), 16, 32)
	if err != nil {
		return -1, digits
	}
	return int(n), digits
}

func whyTrailer(message []byte) string {
	lines, rest, bareLF := headOf(message)
	size := len(message) - len(rest)
	switch {
	case bareLF:
		return "a bare LF in the trailer"
	case folded(lines):
		return "a fold in the trailer"
	case size > maxTrailer || len(lines) > maxFields:
		return "a trailer that is too large"
	}
	for _, line := range lines {
		if name, _, _ := strings.Cut(line, ":"); strings.Contains(name, " ") {
			return "a space in the name of a trailer field"
		}
	}
	return ""
}
