package lb

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// malformed says what is wrong with a request that the server has let through. A
// backend, or what stands between, might understand it otherwise than the proxy's
// own middleware does. Of HTTP/1 the servers check all but the fragment, which no
// target has (RFC 9112, section 3.2); net/http's checks of HTTP/2 leave more open
// (RFC 9113, sections 8.2 and 8.3).
func malformed(in *http.Request) error {
	uri := in.RequestURI
	if in.ProtoMajor < 2 {
		if strings.IndexByte(uri, '#') >= 0 {
			return fmt.Errorf("target %q with a fragment", uri)
		}
		return nil
	}
	switch {
	case !httpguts.ValidHeaderFieldName(in.Method): // which is a token, too
		return fmt.Errorf("method %q", in.Method)
	case strings.ContainsAny(uri, " #") || uri != "" && uri[0] != '/' && uri != "*" && in.Method != http.MethodConnect:
		return fmt.Errorf("target %q", uri)
	case in.Host == "" || !httpguts.ValidHostHeader(in.Host):
		return fmt.Errorf("host %q", in.Host)
	}
	for _, host := range in.Header["Host"] {
		if !strings.EqualFold(host, in.Host) {
			return fmt.Errorf("hosts %q and %q", in.Host, host)
		}
	}
	lengths := in.Header["Content-Length"]
	for _, length := range lengths {
		if length != lengths[0] {
			return fmt.Errorf("lengths %q", lengths)
		}
	}
	if in.ContentLength == 0 && len(lengths) > 0 && strings.Trim(lengths[0], "0") != "" {
		return fmt.Errorf("length %q of a request without a body", lengths[0])
	}
	return nil
}

var errExpectation = errors.New("an expectation other than 100-continue")

// setExpect leaves one way to write what the proxy itself understands: others have
// been used to have a server wait for a body that another does not (RFC 9110,
// section 10.1.1).
func setExpect(h http.Header, in *http.Request) error {
	values := h["Expect"]
	if len(values) == 0 {
		return nil
	}
	delete(h, "Expect")
	if !in.ProtoAtLeast(1, 1) {
		return nil
	}
	for _, v := range values {
		for token := range strings.SplitSeq(v, ",") {
			switch token = strings.Trim(token, " \t"); {
			case token == "":
			case !strings.EqualFold(token, "100-continue"):
				return errExpectation
			default:
				h["Expect"] = []string{"100-continue"}
			}
		}
	}
	return nil
}
