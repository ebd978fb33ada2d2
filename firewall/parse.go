package firewall

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
)

// ParsePolicy reads a policy from text; the package comment describes it. The
// error joins a [ParseError] for every mistake, up to 50. It finds what is
// wrong in the text itself; what depends on the configuration, such as a
// predicate over identities that nobody tells, is found by [New] and
// [Firewall.Update].
//
// A set that the text keeps in a file is empty and refused by New until
// [Policy.LoadFiles] has read it; [ReadPolicy] does that.
func ParsePolicy(text string) (Policy, error) {
	if len(text) > maxPolicyBytes {
		return Policy{}, fmt.Errorf("firewall: policy of %d bytes, want at most %d", len(text), maxPolicyBytes)
	}
	p := parser{lexer: lexer{text: text}, ids: make(map[string]bool)}
	p.next()
	for p.tok.kind != tokenEnd {
		if p.tok.kind == tokenLine {
			p.next()
			continue
		}
		if !p.statement() {
			p.skipLine()
		}
	}
	for _, use := range p.uses {
		if p.policy.Sets[use.text] == nil {
			p.failAt(use.at, "set %q is not defined", clip(use.text))
		}
	}
	if err := p.err(); err != nil {
		return Policy{}, err
	}
	return p.policy, nil
}

// ReadPolicy reads a policy from a file, and the files of its sets, whose names
// are relative to the folder of the policy. All must be plain files: a policy that
// comes through a pipe is for [ParsePolicy].
func ReadPolicy(path string) (Policy, error) {
	f, err := openPlain(path)
	if err != nil {
		return Policy{}, fmt.Errorf("firewall: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPolicyBytes+1))
	if err != nil {
		return Policy{}, fmt.Errorf("firewall: %w", err)
	}
	p, err := ParsePolicy(string(text))
	if err != nil {
		return Policy{}, err
	}
	if err := p.LoadFiles(filepath.Dir(path)); err != nil {
		return Policy{}, err
	}
	return p, nil
}

// LoadFiles reads, or reads again, every set that the text of the policy keeps
// in a file. Names that are not absolute are relative to dir. They must be
// plain files. The error lists every set that failed, and these stay as they were.
func (p Policy) LoadFiles(dir string) error {
	var errs []error
	for name, s := range p.Sets {
		if s == nil || s.file == "" {
			continue
		}
		path := s.file
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		if err := s.loadFile(path); err != nil {
			errs = append(errs, fmt.Errorf("firewall: set %q, %s: %w", clip(name), path, err))
		}
	}
	return errors.Join(errs...)
}

func (s *PrefixSet) loadFile(path string) error {
	f, err := openPlain(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return s.Load(f)
}

// parser builds a policy from tokens. Its methods report mistakes themselves
// and return false where reading cannot go on.
type parser struct {
	lexer
	policy     Policy
	ids        map[string]bool // with "rule", "limit" and so on in front
	uses       []token         // names of sets
	hasDefault bool
	nesting    int
}

// statement reads one line.
func (p *parser) statement() bool {
	at, mode := p.tok, Enforce
	if p.skipWord("monitor") {
		mode = Monitor
	}
	word := p.tok
	switch {
	case p.skipWord("set") && mode == Enforce:
		return p.set() && p.lineEnds()
	case p.skipWord("default") && mode == Enforce:
		return p.defaults(at) && p.lineEnds()
	case p.skipWord("limit"):
		return p.limit(mode) && p.lineEnds()
	case p.skipWord("size"):
		return p.size(mode) && p.lineEnds()
	case p.skipWord("escalate"):
		return p.escalation(mode) && p.lineEnds()
	case word.kind == tokenWord:
		var v Verdict
		if v.UnmarshalText([]byte(word.text)) == nil {
			p.next()
			return p.rule(v, mode) && p.lineEnds()
		}
	}
	p.failAt(word.at, "%v, want accept, drop, reject, size, limit, escalate, set or default", word)
	return false
}

func (p *parser) lineEnds() bool {
	if p.tok.kind != tokenLine && p.tok.kind != tokenEnd {
		p.failAt(p.tok.at, "%v, want the end of the line", p.tok)
		return false
	}
	return true
}

func (p *parser) set() bool {
	name, ok := p.value("the name of a set")
	if !ok {
		return false
	}
	s := new(PrefixSet)
	if p.skipWord("file") {
		file, ok := p.value("the name of a file")
		if !ok {
			return false
		}
		if file.text == "" {
			p.failAt(file.at, "no name of a file")
		}
		s.file = file.text
	} else {
		var prefixes prefixList
		if !p.isMark("{") {
			p.failAt(p.tok.at, `%v, want { or file`, p.tok)
			return false
		}
		if !p.list("a prefix", prefixes.add(p)) {
			return false
		}
		if err := s.store(prefixes); err != nil {
			p.failAt(name.at, "%v", err)
		}
	}
	if name.text == "" || p.policy.Sets[name.text] != nil {
		p.failAt(name.at, "set %q has no name or is defined before", clip(name.text))
		return true
	}
	if p.policy.Sets == nil {
		p.policy.Sets = make(map[string]*PrefixSet)
	}
	p.policy.Sets[name.text] = s
	return true
}

func (p *parser) defaults(at token) bool {
	v, ok := p.value("accept, drop or reject")
	if !ok {
		return false
	}
	if p.policy.Default.UnmarshalText([]byte(v.text)) != nil {
		p.failAt(v.at, "%v, want accept, drop or reject", v)
	}
	if p.hasDefault {
		p.failAt(at.at, "a second default")
	}
	p.hasDefault = true
	return true
}

// id reads the ID of a rule or limit.
func (p *parser) id(kind string) (string, bool) {
	id, ok := p.value("the ID of a " + kind)
	if !ok {
		return "", false
	}
	if id.text == "" || p.ids[kind+id.text] {
		p.failAt(id.at, "ID %q of a %s is empty or used before", clip(id.text), kind)
	}
	p.ids[kind+id.text] = true
	return id.text, true
}

func (p *parser) rule(v Verdict, mode Mode) bool {
	id, ok := p.id("rule")
	if !ok {
		return false
	}
	r := Rule{ID: id, Verdict: v, Mode: mode, Match: All()}
	if p.skipWord("if") {
		if r.Match, ok = p.match(); !ok {
			return false
		}
	}
	p.policy.Rules = append(p.policy.Rules, r)
	return true
}

// skipWord moves on if the next token is the bare word.
func (p *parser) skipWord(word string) bool {
	if p.tok.kind != tokenWord || p.tok.text != word {
		return false
	}
	p.next()
	return true
}

func (p *parser) isMark(mark string) bool { return p.tok.kind == tokenMark && p.tok.text == mark }

// value reads a word or a quoted string.
func (p *parser) value(what string) (token, bool) {
	t := p.tok
	if t.kind != tokenWord && t.kind != tokenString {
		p.failAt(t.at, "%v, want %s", t, what)
		return t, false
	}
	p.next()
	return t, true
}
