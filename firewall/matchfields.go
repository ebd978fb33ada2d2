package firewall

import (
	"net/http"
	"slices"
	"strings"
)

// Header matches a request that has the header, with one of the values if there
// are any. Values are compared as a whole and exactly. A request with several
// lines of the header, of which some have such a value and some have not, is
// unknown, since servers differ in which they take.
//
// Host and what frames a body are not headers for this purpose: see [Host] and
// [BodyOver].
func Header(name string, values ...string) Match {
	n := &node{op: opHeader, name: http.CanonicalHeaderKey(name), words: slices.Clone(values)}
	switch n.name {
	case "Host", "Content-Length", "Transfer-Encoding", "Trailer":
		n.fail("header %q, want one that a server does not take out of the header", n.name)
	}
	n.checkToken()
	return Match{n}
}

// Cookie matches a request that sends the cookie, with one of the values if
// there are any. Several cookies of the name are treated like several lines of a
// header; one whose value is quoted, or not allowed in a cookie, is unknown.
func Cookie(name string, values ...string) Match {
	n := &node{op: opCookie, name: name, words: slices.Clone(values)}
	n.checkToken()
	return Match{n}
}

// Query matches a request whose URL has the query parameter, with one of the
// values if there are any. Several parameters of the name are treated like
// several lines of a header; a query with any mistake is unknown.
func Query(name string, values ...string) Match {
	n := &node{op: opQuery, name: name, words: slices.Clone(values)}
	if name == "" {
		n.fail("query parameter without a name")
	}
	return Match{n}
}

// BodyOver matches a request that announces a body of more than size bytes. If
// it does not say how long its body is, as with chunks, that is unknown, so that
// a rule that refuses by this refuses those too.
func BodyOver(size int64) Match {
	n := &node{op: opBodyOver, size: size}
	if size < 0 {
		n.fail("body-over %d, want 0 or more bytes", size)
	}
	return Match{n}
}

// CrossOrigin matches a request with which one website makes a browser do
// something at another: one that [http.CrossOriginProtection] refuses, by what
// browsers say in Sec-Fetch-Site and Origin. Methods that only read, and requests
// that do not come from a browser, are none. Trusted are origins, such as
// https://example.com, that may.
func CrossOrigin(trusted ...string) Match {
	n := &node{op: opCrossOrigin, words: slices.Clone(trusted), origins: http.NewCrossOriginProtection()}
	for _, origin := range trusted {
		if err := n.origins.AddTrustedOrigin(origin); err != nil {
			n.fail("CrossOrigin(%q), want an origin such as https://example.com: %w", clip(origin), err)
		}
	}
	return Match{n}
}

func (n *node) checkToken() {
	if !isToken(n.name) {
		n.fail("%v %q, want a name of letters, digits and marks", n.op, clip(n.name))
	}
}

func (n *node) evalFields(f *facts) truth {
	r := f.request
	switch n.op {
	case opHeader:
		return n.evalValues(r.Header[n.name])
	case opCookie:
		return n.evalCookies(r)
	case opQuery:
		q, err := f.queryValues()
		if err != nil {
			return unknown
		}
		return n.evalValues(q[n.name])
	}
	if r.ContentLength < 0 {
		return unknown
	}
	return truthOf(r.ContentLength > n.size)
}

// evalValues compares what a request has of a field.
func (n *node) evalValues(values []string) truth {
	if len(values) == 0 || len(n.words) == 0 {
		return truthOf(len(values) > 0)
	}
	good := 0
	for _, v := range values {
		if slices.Contains(n.words, v) {
			good++
		}
	}
	switch good {
	case 0:
		return no
	case len(values):
		return yes
	}
	return unknown
}

func (n *node) evalCookies(r *http.Request) truth {
	sent := 0 // as any server might count them
	for _, line := range r.Header["Cookie"] {
		for pair := range strings.SplitSeq(line, ";") {
			if name, _, _ := strings.Cut(pair, "="); strings.TrimSpace(name) == n.name {
				sent++
			}
		}
	}
	var values []string
	for _, c := range r.CookiesNamed(n.name) {
		if c.Quoted {
			return unknown
		}
		values = append(values, c.Value)
	}
	if sent != len(values) {
		return unknown
	}
	return n.evalValues(values)
}
