package mysqltest

import "strings"

// maxTokens is how much of a statement is kept in pieces. What the server
// answers itself is short; a longer statement is only looked through.
const maxTokens = 1024

type tokenKind uint8

const (
	tokWord   tokenKind = iota // a keyword or a name
	tokQuoted                  // a name in backticks
	tokString                  // a string; text is its value
	tokNumber
	tokParam // a placeholder
	tokPunct
)

type token struct {
	kind       tokenKind
	text       string
	start, end int // where it stands in the statement
}

func (t token) is(word string) bool {
	return t.kind == tokWord && strings.EqualFold(t.text, word)
}

func (t token) punct(c byte) bool { return t.kind == tokPunct && t.text[0] == c }

// statement is what the server knows of a statement without a grammar.
type statement struct {
	sql     string
	tokens  []token // the first maxTokens of them
	whole   bool    // tokens are all of them
	params  int
	second  bool   // another statement follows
	broken  bool   // a string, name or comment does not end
	locking bool   // has FOR UPDATE
	dml     string // for WITH: the data-changing keyword outside parentheses, upper case
}

func parse(sql string) *statement {
	st := &statement{sql: sql, whole: true}
	lx := lexer{sql: sql}
	depth, ended, previous := 0, false, token{kind: tokPunct, text: " "}
	for {
		t, ok := lx.next()
		if !ok {
			break
		}
		if ended {
			st.second = true
			break
		}
		switch {
		case t.punct(';'):
			ended = true
			continue
		case t.punct('('):
			depth++
		case t.punct(')'):
			depth--
		case t.kind == tokParam:
			st.params++
		case t.is("UPDATE") && previous.is("FOR"):
			st.locking = true
		case depth == 0 && st.dml == "" && t.kind == tokWord && dataChanging(t.text):
			st.dml = strings.ToUpper(t.text)
		}
		previous = t
		if len(st.tokens) < maxTokens {
			st.tokens = append(st.tokens, t)
		} else {
			st.whole = false
		}
	}
	st.broken = lx.broken
	return st
}

func dataChanging(word string) bool {
	switch strings.ToUpper(word) {
	case "INSERT", "UPDATE", "DELETE", "REPLACE":
		return true
	}
	return false
}

// word returns the i-th token in upper case if it is a word, otherwise "".
func (st *statement) word(i int) string {
	if i >= len(st.tokens) || st.tokens[i].kind != tokWord {
		return ""
	}
	return strings.ToUpper(st.tokens[i].text)
}

// words says whether the statement begins with these words.
func (st *statement) words(want ...string) bool {
	for i, w := range want {
		if st.word(i) != w {
			return false
		}
	}
	return true
}

// kind is what a statement does to data.
type kind uint8

const (
	reading kind = iota
	lockingRead
	writing
	defining // a write that commits the transaction before it
	temporary
)

func (st *statement) kind() kind {
	switch st.word(0) {
	case "INSERT", "UPDATE", "DELETE", "REPLACE", "CALL", "LOAD":
		return writing
	case "CREATE", "DROP":
		if st.word(1) == "TEMPORARY" {
			return temporary
		}
		return defining
	case "ALTER", "TRUNCATE", "GRANT", "REVOKE", "RENAME", "OPTIMIZE":
		return defining
	case "WITH":
		if st.dml != "" {
			return writing
		}
	}
	if st.locking {
		return lockingRead
	}
	return reading
}

// lexer yields the tokens of a statement. Comments are skipped, except that the
// text of an executable comment counts.
type lexer struct {
	sql    string
	at     int
	inside int // executable comments that are open
	broken bool
}

func (lx *lexer) next() (token, bool) {
	if !lx.skip() {
		return token{}, false
	}
	start := lx.at
	c := lx.sql[lx.at]
	switch {
	case c == '\'' || c == '"':
		return lx.quoted(c, tokString)
	case c == '`':
		return lx.quoted(c, tokQuoted)
	case c >= '0' && c <= '9':
		lx.while(func(c byte) bool { return isWord(c) || c == '.' })
		return token{tokNumber, lx.sql[start:lx.at], start, lx.at}, true
	case isWord(c):
		lx.while(isWord)
		return token{tokWord, lx.sql[start:lx.at], start, lx.at}, true
	}
	lx.at++
	k := tokPunct
	if c == '?' {
		k = tokParam
	}
	return token{k, lx.sql[start:lx.at], start, lx.at}, true
}

func (lx *lexer) while(f func(byte) bool) {
	for lx.at < len(lx.sql) && f(lx.sql[lx.at]) {
		lx.at++
	}
}

func isWord(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '$' || c >= 0x80
}

// skip passes white space and comments; it returns false at the end.
func (lx *lexer) skip() bool {
	for lx.at < len(lx.sql) {
		rest := lx.sql[lx.at:]
		switch {
		case strings.IndexByte(" \t\r\n\f\v\x00", rest[0]) >= 0:
			lx.at++
		case rest[0] == '#' || rest == "--" || len(rest) > 2 && rest[:2] == "--" && rest[2] <= ' ':
			line := strings.IndexByte(rest, '\n')
			if line < 0 {
				lx.at = len(lx.sql)
				return false
			}
			lx.at += line + 1
		case strings.HasPrefix(rest, "/*!"), strings.HasPrefix(rest, "/*M!"):
			lx.at += strings.IndexByte(rest, '!') + 1
			lx.while(func(c byte) bool { return c >= '0' && c <= '9' })
			lx.inside++
		case lx.inside > 0 && strings.HasPrefix(rest, "*/"):
			lx.at += 2
			lx.inside--
		case strings.HasPrefix(rest, "/*"):
			end := strings.Index(rest[2:], "*/")
			if end < 0 {
				lx.at, lx.broken = len(lx.sql), true
				return false
			}
			lx.at += end + 4
		default:
			return true
		}
	}
	lx.broken = lx.broken || lx.inside > 0
	return false
}

// quoted reads a string or a name up to its closing quote. A doubled quote
// stands for one, and in strings a backslash escapes.
func (lx *lexer) quoted(q byte, k tokenKind) (token, bool) {
	start := lx.at
	var b strings.Builder
	for lx.at++; lx.at < len(lx.sql); lx.at++ {
		c := lx.sql[lx.at]
		switch {
		case c == '\\' && k == tokString && lx.at+1 < len(lx.sql):
			lx.at++
			b.WriteByte(unescape(lx.sql[lx.at]))
		case c != q:
			b.WriteByte(c)
		case lx.at+1 < len(lx.sql) && lx.sql[lx.at+1] == q:
			lx.at++
			b.WriteByte(q)
		default:
			lx.at++
			return token{k, b.String(), start, lx.at}, true
		}
	}
	lx.broken = true
	return token{}, false
}

func unescape(c byte) byte {
	switch c {
	case '0':
		return 0
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	case 'b':
		return '\b'
	case 'Z':
		return 26
	}
	return c
}
