package dbrouter

import "strings"

// Digest returns what is common to all statements that differ only in their
// values: the text in lower case, with single spaces, without comments, with "?"
// for each number, text and placeholder, and for each list of those. It is a key
// for metrics, and holds none of the caller's values.
//
// What only the server can read, such as an executable comment or a backslash
// before a quote, ends it with "…".
func Digest(sql string) string {
	d := digester{lex: lexer{sql: sql}}
	for {
		switch t := d.lex.next(); t.kind {
		case endToken:
			return strings.TrimRight(string(d.out), "; ")
		case badToken:
			return string(d.out) + "…"
		default:
			d.add(t)
		}
	}
}

// Digest returns the statement's [Digest].
func (s Statement) Digest() string { return Digest(s.SQL) }

// denyList returns the digests of statements.
func denyList(statements []string) map[string]bool {
	out := make(map[string]bool, len(statements))
	for _, s := range statements {
		out[Digest(s)] = true
	}
	return out
}

type digester struct {
	lex  lexer
	out  []byte
	last byte // the sign before, 0 if it was another token
}

func (d *digester) add(t token) {
	text := d.lex.sql[t.start:t.end]
	sign := byte(0)
	switch {
	case t.kind == signToken:
		sign = t.sign
	case t.kind == quotedToken && text[0] != '`', t.kind == wordToken && isDigit(text[0]):
		text = "?"
	case t.kind == wordToken:
		text = strings.ToLower(text)
	}
	tight := len(d.out) == 0 || d.last == '(' || d.last == '.' || d.last == '@' ||
		sign == ',' || sign == ')' || sign == '.' || sign == ';' || sign == '(' && d.last == 0
	if !tight {
		d.out = append(d.out, ' ')
	}
	d.out = append(d.out, text...)
	d.last = sign
	if sign == '?' {
		d.last = 0
	}
	d.shorten("?.?", "?")
	d.shorten("?, ?", "?")
	d.shorten("(?), (?)", "(?)")
}

// shorten replaces the end of what there is.
func (d *digester) shorten(end, by string) {
	if strings.HasSuffix(string(d.out[max(len(d.out)-len(end), 0):]), end) {
		d.out = append(d.out[:len(d.out)-len(end)], by...)
	}
}
