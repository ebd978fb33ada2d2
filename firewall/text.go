package firewall

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	maxPolicyBytes = 64 << 20 // of a text
	maxTextErrors  = 50       // reported of one text
	maxNesting     = 100      // of parentheses and nots
)

// ParseError is a mistake in the text of a policy.
type ParseError struct {
	// Line and Column say where it is. Both count from 1; columns are
	// characters.
	Line, Column int
	// Message says what was found and what was expected.
	Message string
}

// Error returns position and message.
func (e *ParseError) Error() string {
	return fmt.Sprintf("firewall: line %d, column %d: %s", e.Line, e.Column, e.Message)
}

type tokenKind uint8

const (
	tokenEnd    tokenKind = iota
	tokenLine             // the end of a line, outside of brackets
	tokenWord             // bare
	tokenString           // quoted
	tokenMark             // one of { } ( ) , @
	tokenBad              // none of these
)

// token is a piece of a policy text. text is what a word or a quoted string
// stands for, and the mark itself for a mark.
type token struct {
	kind tokenKind
	text string
	at   int // offset of its first byte
}

func (t token) String() string {
	switch t.kind {
	case tokenEnd:
		return "the end"
	case tokenLine:
		return "the end of the line"
	}
	return strconv.Quote(clip(t.text))
}

// lexer cuts a text into tokens. It is always one token ahead.
type lexer struct {
	text     string
	offset   int
	brackets int // open ones, in which a line may end
	tok      token
	errs     []error
	more     bool // errors than are kept
}

// failAt notes a mistake; the message says what was expected.
func (l *lexer) failAt(at int, format string, args ...any) {
	if len(l.errs) == maxTextErrors {
		l.more = true
		return
	}
	line := 1 + strings.Count(l.text[:at], "\n")
	start := strings.LastIndexByte(l.text[:at], '\n') + 1
	column := 1 + utf8.RuneCountInString(l.text[start:at])
	l.errs = append(l.errs, &ParseError{line, column, fmt.Sprintf(format, args...)})
}

func (l *lexer) err() error {
	if l.more {
		return errors.Join(append(l.errs, errors.New("firewall: too many mistakes to list"))...)
	}
	return errors.Join(l.errs...)
}

// next moves on by one token.
func (l *lexer) next() {
	if l.tok.kind == tokenMark {
		switch l.tok.text {
		case "{", "(":
			l.brackets++
		case "}", ")":
			l.brackets = max(0, l.brackets-1)
		}
	}
	l.skipBlanks()
	start := l.offset
	if start == len(l.text) {
		l.tok = token{tokenEnd, "", start}
		return
	}
	switch c := l.text[start]; {
	case c == '\n':
		l.offset++
		l.tok = token{tokenLine, "", start}
	case strings.IndexByte("{}(),@", c) >= 0:
		l.offset++
		l.tok = token{tokenMark, l.text[start:l.offset], start}
	case c == '"':
		l.quoted()
	case isWordByte(c):
		for l.offset < len(l.text) && isWordByte(l.text[l.offset]) {
			l.offset++
		}
		l.tok = token{tokenWord, l.text[start:l.offset], start}
	default:
		_, size := utf8.DecodeRuneInString(l.text[start:])
		l.offset += size
		l.tok = token{tokenBad, l.text[start:l.offset], start}
	}
}

func (l *lexer) skipBlanks() {
	for l.offset < len(l.text) {
		switch c := l.text[l.offset]; {
		case c == ' ', c == '\t', c == '\r', c == '\n' && l.brackets > 0:
			l.offset++
		case c == '#':
			if end := strings.IndexByte(l.text[l.offset:], '\n'); end >= 0 {
				l.offset += end
			} else {
				l.offset = len(l.text)
			}
		default:
			return
		}
	}
}

// quoted reads a string with the escapes of Go.
func (l *lexer) quoted() {
	start := l.offset
	raw, err := strconv.QuotedPrefix(l.text[start:])
	if err != nil {
		end := strings.IndexByte(l.text[start:], '\n')
		if end < 0 {
			end = len(l.text) - start
		}
		l.offset += end
		l.tok = token{tokenBad, l.text[start:l.offset], start}
		return
	}
	l.offset += len(raw)
	text, err := strconv.Unquote(raw)
	if err != nil {
		l.tok = token{tokenBad, raw, start}
		return
	}
	l.tok = token{tokenString, text, start}
}

// skipLine moves on to the end of the line, or, from inside brackets, to the
// end of the last line before one that starts as statements do.
func (l *lexer) skipLine() {
	inside := l.brackets > 0
	for l.tok.kind != tokenEnd {
		for l.tok.kind != tokenLine && l.tok.kind != tokenEnd {
			l.skipToken()
		}
		next := *l
		next.skipToken()
		if !inside || startsStatement(next.tok) {
			return
		}
		l.skipToken()
	}
}

// skipToken is next without regard to brackets.
func (l *lexer) skipToken() {
	l.brackets, l.tok.kind = 0, tokenBad
	l.next()
}

func startsStatement(t token) bool {
	return t.kind == tokenWord && slices.Contains([]string{"accept", "drop", "reject", "monitor", "size", "limit", "escalate", "set", "default"}, t.text)
}

func isWordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_.:/*+-~=%", c) >= 0
}

// quoteWord writes a value bare if that can be read back.
func quoteWord(s string) string {
	for i := range len(s) {
		if !isWordByte(s[i]) {
			return strconv.Quote(s)
		}
	}
	if s == "" {
		return `""`
	}
	return s
}
