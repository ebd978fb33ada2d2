package http1

import (
	"net/http"
	"strings"
)

const (
	maxFields  = 1000
	maxTrailer = 16 << 10
)

// Field is a field of a head: its name in canonical form, and its value without
// the white space around it.
type Field struct{ Name, Value string }

// cutField takes the first field off lines of fields. In a response, one whose
// name has spaces comes without its name, and is to be dropped.
func cutField(text string, isResponse bool) (f Field, rest string, err error) {
	line, rest, _ := strings.Cut(text, "\r\n")
	name, value, ok := strings.Cut(line, ":")
	if !ok || name == "" || name[0] == ' ' || name[0] == '\t' {
		return Field{}, "", malformed("a line that is no field")
	}
	if value = trim(value); !consists(value, inValue) {
		return Field{}, "", malformed("a control character in a field")
	}
	if !isToken(name) {
		// Of names that are none, net/http knows those with spaces, too.
		if !isResponse || !isToken(strings.ReplaceAll(name, " ", "_")) || looksLikeFraming(name) {
			return Field{}, "", malformed("the name of a field")
		}
		return Field{}, rest, nil
	}
	return Field{canonical(name), value}, rest, nil
}

// fields parses lines of fields of a request, or of a trailer, into an empty
// header.
func fields(h http.Header, text string, lines int) error {
	if lines > maxFields {
		return ErrTooManyFields
	}
	values := make([]string, lines) // one array for all
	for text != "" {
		f, rest, err := cutField(text, false)
		if err != nil {
			return err
		}
		text = rest
		if old, ok := h[f.Name]; ok {
			h[f.Name] = append(old, f.Value)
			continue
		}
		values[0] = f.Value
		h[f.Name] = values[:1:1]
		values = values[1:]
	}
	return nil
}

// looksLikeFraming says whether somebody might take a broken name for one that
// governs where the message ends.
func looksLikeFraming(name string) bool {
	plain := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return -1
	}, name)
	return plain == "contentlength" || plain == "transferencoding"
}
