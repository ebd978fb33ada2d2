package dbrouter

import "strings"

// kind of token.
type tokenKind uint8

const (
	endToken    tokenKind = iota
	wordToken             // keyword, name or number
	quotedToken           // 'text', "text" or `name`
	signToken             // a single other byte
	badToken              // what only the server can read; see lexer.trouble
)

// token is a piece of a statement. It never holds a comment.
type token struct {
	kind tokenKind
	sign byte // of a signToken
	// start and end of it in the statement; the text includes the quotes.
	start, end int
}

// lexer cuts a statement into tokens without allocating. It does not know the
// server's sql_mode, so that it reports whatever the modes read differently as
// a badToken, after which there are no more tokens.
type lexer struct {
	sql     string
	pos     int
	trouble string // why a badToken is bad
}

func (l *lexer) bad(why string) token {
	l.trouble = why
	l.pos = len(l.sql)
	return token{kind: badToken, start: l.pos, end: l.pos}
}

func (l *lexer) next() token {
	for l.pos < len(l.sql) {
		c := l.sql[l.pos]
		switch byteKinds[c] {
		case spaceByte:
			l.pos++
			continue
		case wordByte:
			start, end := l.pos, l.pos+1
			for end < len(l.sql) && isWord(l.sql[end]) {
				end++
			}
			l.pos = end
			if !isDigit(c) && (start == 0 || l.sql[start-1] != '.') {
				return token{kind: wordToken, start: start, end: end}
			}
			return l.number(start, end)
		case signByte:
			return l.sign(c)
		}
		switch {
		case c == '#', c == '-' && l.dashes():
			end := strings.IndexByte(l.sql[l.pos:], '\n')
			if end < 0 {
				l.pos = len(l.sql)
			} else {
				l.pos += end + 1
			}
			continue
		case c == '/' && l.at(1) == '*':
			if why := l.comment(); why != "" {
				return l.bad(why)
			}
			continue
		case c == '\'', c == '"', c == '`':
			return l.quoted(c)
		case c < ' ', c == 0x7f:
			return l.bad("control character")
		case c == '\\':
			return l.bad("backslash outside of quotes")
		case c == '[':
			return l.bad("bracket") // it quotes a name with sql_mode MSSQL
		}
		return l.sign(c)
	}
	return token{kind: endToken, start: l.pos, end: l.pos}
}

func (l *lexer) sign(c byte) token {
	l.pos++
	return token{kind: signToken, sign: c, start: l.pos - 1, end: l.pos}
}

// at returns the byte n bytes on, or 0.
func (l *lexer) at(n int) byte {
	if l.pos+n < len(l.sql) {
		return l.sql[l.pos+n]
	}
	return 0
}

// dashes says whether a comment starts here: two dashes make one only if white
// space, a control character or the end follows.
func (l *lexer) dashes() bool {
	if l.at(1) != '-' {
		return false
	}
	c := l.at(2)
	return c <= ' ' || c == 0x7f
}

// comment skips a comment. One that servers execute, or may take more than advice
// from, is not a comment to us.
func (l *lexer) comment() string {
	switch c := l.at(2); {
	case c == '!', (c == 'M' || c == 'm') && l.at(3) == '!':
		return "executable comment"
	}
	end := strings.Index(l.sql[l.pos+2:], "*/")
	if end < 0 {
		return "comment without end"
	}
	if l.at(2) == '+' && !harmlessHint(l.sql[l.pos+3:l.pos+2+end]) {
		return "optimizer hint"
	}
	l.pos += 2 + end + 2
	return ""
}

// harmlessHint says whether optimizer hints are advice only: they set no variable,
// and hold no text or quoted name in which MySQL would read on beyond the end of a
// comment.
func harmlessHint(hint string) bool {
	for i := range len(hint) {
		if c := hint[i]; !isWord(c) && !isSpace(c) && strings.IndexByte("@,.()=%", c) < 0 {
			return false
		}
	}
	return !mentions(hint, "SET_VAR") && !mentions(hint, "RESOURCE_GROUP")
}

// number looks at a word that is a number, or follows on a dot.
func (l *lexer) number(start, end int) token {
	w := l.sql[start:end]
	if isDigit(w[0]) && !isNumber(w) {
		// Servers read "1.0into" as the number 1.0 and the keyword INTO.
		return l.bad("number that runs into a word")
	}
	if !isDigit(w[0]) && start >= 2 && l.sql[start-1] == '.' && isDigit(l.sql[start-2]) && l.endsNumber(start-1) {
		return l.bad("number that runs into a word") // "1.e5into"
	}
	return token{kind: wordToken, start: start, end: end}
}

// endsNumber says whether the word that ends at end is a number.
func (l *lexer) endsNumber(end int) bool {
	start := end
	for start > 0 && isWord(l.sql[start-1]) {
		start--
	}
	return start < end && isDigit(l.sql[start])
}

// isNumber recognises 12, 1e3, 0x1F and 0b1.
func isNumber(w string) bool {
	n := 0
	for n < len(w) && isDigit(w[n]) {
		n++
	}
	if n == len(w) {
		return true
	}
	digits, set := w, "0123456789"
	if len(w) > 2 && w[0] == '0' {
		switch w[1] {
		case 'x':
			digits, set = w[2:], "0123456789abcdefABCDEF"
		case 'b':
			digits, set = w[2:], "01"
		}
	}
	rest := strings.TrimLeft(digits, set)
	if rest == "" {
		return true
	}
	if len(rest) < 2 || rest[0] != 'e' && rest[0] != 'E' {
		return false
	}
	return strings.TrimLeft(rest[1:], "0123456789") == ""
}

// quoted reads to the closing quote; a doubled quote stands for itself. Whether
// a backslash before a quote escapes it depends on NO_BACKSLASH_ESCAPES and
// ANSI_QUOTES, so that only the server knows where such a text ends.
func (l *lexer) quoted(quote byte) token {
	start := l.pos
	l.pos++
	for {
		i := strings.IndexByte(l.sql[l.pos:], quote)
		if i < 0 {
			return l.bad("quote without end")
		}
		l.pos += i
		if quote != '`' && l.sql[l.pos-1] == '\\' {
			return l.bad("backslash before a quote")
		}
		l.pos++
		if l.at(0) != quote {
			return token{kind: quotedToken, start: start, end: l.pos}
		}
		l.pos++
	}
}

// What a byte may be part of.
const (
	wordByte  = 1
	spaceByte = 2
	signByte  = 4 // whatever follows
)

// byteKinds has the kind of each byte: letters, digits, the underscore, the
// dollar sign and whatever is not ASCII make words. Those of none may begin a
// comment or a quoted text, or are refused.
const byteKinds = "" +
	"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x02\x02\x02\x02\x00\x00" +
	"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
	"\x02\x04\x00\x00\x01\x04\x04\x00\x04\x04\x04\x04\x04\x00\x04\x00" +
	"\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x04\x04\x04\x04\x04\x04" +
	"\x04\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01" +
	"\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x00\x00\x04\x04\x01" +
	"\x00\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01" +
	"\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x04\x04\x04\x04\x00" +
	"\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01" +
	"\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01" +
	"\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01" +
	"\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01" +
	"\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01" +
	"\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01" +
	"\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01" +
	"\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01"

func isSpace(c byte) bool { return byteKinds[c]&spaceByte != 0 }

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func isWord(c byte) bool { return byteKinds[c]&wordByte != 0 }
