package dbrouter

import (
	"strings"
	"unicode/utf8"
)

// Kind is what a statement needs, in rising order of strictness.
type Kind uint8

const (
	// Read only reads and depends on nothing but the data: a replica may do it.
	Read Kind = iota
	// Same reads what the session knows about its previous statement, as
	// FOUND_ROWS() does, and must be done by the same connection.
	Same
	// Write must be done by the primary.
	Write
	// Pin must be done by the primary and may leave something behind in its
	// session, such as a variable, a lock or an open transaction: from then on
	// all statements of the session must be done there, and nobody else may
	// get its connection.
	Pin
)

func (k Kind) String() string {
	switch k {
	case Read:
		return "read"
	case Same:
		return "same"
	case Write:
		return "write"
	}
	return "pin"
}

// Classification is what [Classify] makes of a statement.
type Classification struct {
	Kind Kind
	// Reason says in a few words what decided, for people.
	Reason string
}

func (c Classification) String() string { return c.Kind.String() + ": " + c.Reason }

// Classify says where a statement must be done. It is pure and does not
// allocate. It recognises what is certainly a read and says Write or Pin to
// everything else: to whatever it does not know, and to whatever servers read
// in different ways, depending on their sql_mode and version.
//
// It cannot know whether a view or a function that looks like one of the
// server's own writes. For that there is a net under it: see the package
// comment.
func Classify(sql string) Classification {
	switch {
	case strings.IndexByte(sql, 0) >= 0:
		return Classification{Pin, "NUL byte"}
	case !utf8.ValidString(sql):
		// In GBK and its like the second byte of a character may look like a
		// quote; no such character is valid UTF-8.
		return Classification{Pin, "not UTF-8"}
	}
	c := classifier{lex: lexer{sql: sql}}
	return c.run()
}

// classifier goes through the tokens of one statement, with a view of the one
// before and the one after.
type classifier struct {
	lex       lexer
	prev, tok token
	verdict   Classification
	reading   bool // the statement starts with SELECT or WITH
	ddl       bool // CREATE or DROP
}

// raise makes the verdict stricter, never weaker.
func (c *classifier) raise(k Kind, reason string) {
	if k > c.verdict.Kind {
		c.verdict = Classification{k, reason}
	}
}

func (c *classifier) run() Classification {
	c.tok = c.lex.next()
	for c.tok.kind == signToken && c.tok.sign == '(' {
		c.prev, c.tok = c.tok, c.lex.next()
	}
	c.first()
	for c.tok.kind != endToken {
		if c.tok.kind == badToken {
			c.raise(Pin, c.lex.trouble)
			break
		}
		next := c.lex.next()
		c.look(next)
		c.prev, c.tok = c.tok, next
		if c.reading {
			c.skim()
		}
	}
	return c.verdict
}

// skim passes over what look has nothing to say about in a statement that reads,
// which is most of it: words that do not matter and call nothing, and signs. It
// leaves the state as if look had seen them.
func (c *classifier) skim() {
	sql := c.lex.sql
	for {
		switch c.tok.kind {
		case wordToken:
			if c.matters() || mayCall(sql, c.tok.end) {
				return
			}
		case signToken:
			if c.tok.sign == '@' || c.tok.sign == ';' || c.tok.sign == '{' {
				return
			}
		default:
			return
		}
		c.prev, c.tok = c.tok, c.lex.next()
	}
}

// mayCall says whether a parenthesis may follow on a word that ends at end.
func mayCall(sql string, end int) bool {
	for ; end < len(sql); end++ {
		switch c := sql[end]; {
		case isSpace(c):
		case c == '(', c == '/', c == '#', c == '-': // or a comment before one
			return true
		default:
			return false
		}
	}
	return false
}

// first judges by the first word.
func (c *classifier) first() {
	if c.tok.kind == endToken {
		c.verdict = Classification{Write, "empty"}
		return
	}
	if c.tok.kind == badToken {
		c.verdict = Classification{Pin, c.lex.trouble}
		return
	}
	if c.tok.kind != wordToken {
		c.verdict = Classification{Pin, "unknown statement"}
		return
	}
	var buf [maxWord]byte
	switch w := c.upper(c.tok, &buf); string(w) {
	case "SELECT":
		c.verdict = Classification{Read, "SELECT"}
		c.reading = true
	case "WITH":
		c.verdict = Classification{Read, "WITH"}
		c.reading = true
	case "INSERT", "UPDATE", "DELETE", "REPLACE", "TRUNCATE", "LOAD":
		c.verdict = Classification{Write, "changes data"}
	case "CREATE", "DROP":
		c.verdict = Classification{Write, "changes the schema"}
		c.ddl = true
	case "ALTER", "RENAME":
		c.verdict = Classification{Write, "changes the schema"}
	case "GRANT", "REVOKE":
		c.verdict = Classification{Write, "changes privileges"}
	case "EXPLAIN", "DESCRIBE", "DESC":
		c.verdict = Classification{Write, "may execute"}
	case "ANALYZE", "OPTIMIZE", "CHECK", "REPAIR":
		c.verdict = Classification{Write, "maintains tables"}
	case "KILL":
		c.verdict = Classification{Write, "acts on this server"}
	case "TABLE", "VALUES", "DO":
		c.verdict = Classification{Write, "rarely used, so not known to only read"}
	case "SHOW":
		c.verdict = Classification{Write, "shows this server"}
		c.show()
	default:
		c.verdict = Classification{Pin, "may change the session"}
	}
}

// show looks for the kinds of SHOW that are about the previous statement.
func (c *classifier) show() {
	l := c.lex
	t := l.next()
	var buf [maxWord]byte
	switch string(upperWord(l.sql, t, &buf)) {
	case "WARNINGS", "ERRORS", "COUNT":
		c.verdict = Classification{Same, "about the previous statement"}
	}
}

// look judges one token.
func (c *classifier) look(next token) {
	switch c.tok.kind {
	case quotedToken:
		if c.reading && isSign(next, '(') {
			c.raise(Write, "call of a quoted name")
		}
		// With sql_mode ORACLE also in quotes.
		if name := c.lex.sql[c.tok.start+1 : c.tok.end-1]; c.reading && isSign(c.prev, '.') && (strings.EqualFold(name, "NEXTVAL") || strings.EqualFold(name, "CURRVAL")) {
			c.raise(Write, "sequence")
		}
	case signToken:
		c.lookSign(next)
	case wordToken:
		c.lookWord(next)
	}
}

func (c *classifier) lookSign(next token) {
	switch c.tok.sign {
	case '@':
		switch {
		case isSign(c.prev, '@') && c.prev.end == c.tok.start:
			// the second of @@
		case isSign(next, '@') && next.start == c.tok.end:
			c.raise(Write, "system variable")
		default:
			c.raise(Pin, "user variable")
		}
	case ';':
		if next.kind != endToken && !isSign(next, ';') {
			c.raise(Pin, "second statement")
		}
	case '{':
		c.raise(Write, "ODBC escape")
	}
}

func (c *classifier) lookWord(next token) {
	call := isSign(next, '(')
	if !call && !c.matters() {
		return
	}
	var buf [maxWord]byte
	w := c.upper(c.tok, &buf)
	if c.ddl && string(w) == "TEMPORARY" {
		c.raise(Pin, "temporary table")
	}
	if call {
		switch string(w) {
		case "GET_LOCK", "RELEASE_LOCK", "RELEASE_ALL_LOCKS", "SERVICE_GET_READ_LOCKS", "SERVICE_GET_WRITE_LOCKS", "SERVICE_RELEASE_LOCKS":
			c.raise(Pin, "named lock")
		}
	}
	if !c.reading {
		return
	}
	if call {
		c.lookCall(w, next)
	}
	switch string(w) {
	case "NEXTVAL", "CURRVAL": // as if they were columns of the sequence
		c.raise(Write, "sequence")
	}
	if isSign(c.prev, '.') && c.prev.end == c.tok.start {
		return // a column, even if it is called like a keyword
	}
	switch string(w) {
	case "INTO":
		c.raise(Write, "INTO")
	case "UPDATE", "LOCK":
		c.raise(Write, "locks rows")
	case "SHARE":
		if c.isWord(c.prev, "FOR") {
			c.raise(Write, "locks rows")
		}
	case "DELETE":
		c.raise(Write, "changes data")
	case "INSERT", "REPLACE":
		if !call {
			c.raise(Write, "changes data")
		}
	case "PROCEDURE":
		c.raise(Write, "PROCEDURE")
	case "VALUE":
		if c.isWord(c.prev, "NEXT") || c.isWord(c.prev, "PREVIOUS") {
			c.raise(Write, "sequence")
		}
	}
}

// matters says whether a word that is not called may be one of those that lookWord
// looks for: by its length and its first two letters, in lower case, which sorts
// out all but a few others.
func (c *classifier) matters() bool {
	w := c.lex.sql[c.tok.start:c.tok.end]
	if len(w) < len("INTO") || len(w) > len("PROCEDURE") || lengthsThatMatter[w[0]&0x1f]>>(len(w)-len("INTO"))&1 == 0 {
		return false
	}
	switch uint16(w[0]|0x20)<<8 | uint16(w[1]|0x20) {
	case 'i'<<8 | 'n', // INTO, INSERT
		'u'<<8 | 'p', 'd'<<8 | 'e', // UPDATE, DELETE
		'l'<<8 | 'o',               // LOCK
		's'<<8 | 'h', 'v'<<8 | 'a', // SHARE, VALUE
		'r'<<8 | 'e', 'n'<<8 | 'e', 'c'<<8 | 'u', // REPLACE, NEXTVAL, CURRVAL
		'p'<<8 | 'r', 't'<<8 | 'e': // PROCEDURE, TEMPORARY
		return true
	}
	return false
}

// lengthsThatMatter has a bit for each length, from that of INTO, of the words
// that begin with the letter A+i-1.
const lengthsThatMatter = "" +
	"\x00\x00\x00\x08\x04\x00\x00\x00" + // C D
	"\x00\x05\x00\x00\x01\x00\x08\x00" + // I L N
	"\x20\x00\x08\x02\x20\x04\x02\x00" + // P R S T U V
	"\x00\x00\x00\x00\x00\x00\x00\x00"

// lookCall judges a word before a parenthesis. Some functions must touch it: with a
// space between, count (x) may call a stored function of that name.
func (c *classifier) lookCall(w []byte, next token) {
	switch string(w) {
	case "FOUND_ROWS", "ROW_COUNT":
		c.raise(Same, "about the previous statement")
		return
	case "LAST_INSERT_ID":
		c.raise(Write, "about the previous write")
		return
	}
	switch {
	case isSign(c.prev, '.'):
		c.raise(Write, "call of a stored function")
	case c.isWord(c.prev, "WITH"), c.isWord(c.prev, "RECURSIVE"):
		// the columns of a common table expression
	case beforeParenthesis(w):
	case c.isWord(c.prev, "AS"):
		// the name of a derived table, before those of its columns, or a type
	case string(w) == "COLUMNS" && c.prev.kind == quotedToken: // of JSON_TABLE
	case (string(w) == "ANY" || string(w) == "SOME") && (isSign(c.prev, '=') || isSign(c.prev, '<') || isSign(c.prev, '>')):
	case string(w) == "AGAINST" && isSign(c.prev, ')'):
	case modifies(w) && mayModify(c.upper(c.prev, new([maxWord]byte))):
		// of SELECT, before a subselect or another expression in parentheses
	case next.start != c.tok.end && mustTouch(w):
		c.raise(Write, "call of a stored function")
	case !readingFunction(w):
		c.raise(Write, "call of a function that is not known to only read")
	}
}

func isSign(t token, sign byte) bool { return t.kind == signToken && t.sign == sign }

func (c *classifier) isWord(t token, word string) bool {
	var buf [maxWord]byte
	return string(c.upper(t, &buf)) == word
}

func (c *classifier) upper(t token, buf *[maxWord]byte) []byte { return upperWord(c.lex.sql, t, buf) }

// maxWord is longer than any word that is looked for.
const maxWord = 32

// upperWord returns a word in upper case, or nothing if it is longer than any
// that is looked for or not a word.
func upperWord(sql string, t token, buf *[maxWord]byte) []byte {
	n := t.end - t.start
	if t.kind != wordToken || n > maxWord {
		return nil
	}
	for i := range n {
		ch := sql[t.start+i]
		if 'a' <= ch && ch <= 'z' {
			ch -= 'a' - 'A'
		}
		buf[i] = ch
	}
	return buf[:n]
}
