package lb

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

func logged(uri, agent string) Event {
	r := &http.Request{
		Method: "GET", RequestURI: uri, URL: new(url.URL), Proto: "HTTP/1.1", Host: "h.test", RemoteAddr: "[2001:db8::1]:4711",
		Header: http.Header{"User-Agent": {agent}},
	}
	start := time.Date(2026, 11, 25, 7, 8, 9, 0, time.FixedZone("", 3600))
	return Event{Request: r, Backend: "b1", Attempts: 2, Status: 502, Err: errors.New("why"), Start: start, Duration: 1234567, RequestBytes: 3, ResponseBytes: 42}
}

func TestAppendCombined(t *testing.T) {
	for _, c := range []struct {
		e    Event
		want string
	}{
		{logged("/a?b=c", "curl/8"), `2001:db8::1 - - [25/Nov/2026:07:08:09 +0100] "GET /a?b=c HTTP/1.1" 502 42 "-" "curl/8"`},
		{logged("/\" 200 \n", "a\\\x01\xff"), `2001:db8::1 - - [25/Nov/2026:07:08:09 +0100] "GET /\x22 200 \x0a HTTP/1.1" 502 42 "-" "a\x5c\x01\xff"`},
		{logged("", ""), `2001:db8::1 - - [25/Nov/2026:07:08:09 +0100] "GET / HTTP/1.1" 502 42 "-" "-"`},
	} {
		if got := string(c.e.AppendCombined([]byte("> "))); got != "> "+c.want+"\n" {
			t.Errorf("got  %swant > %s", got, c.want)
		}
	}
	if n := len(logged(strings.Repeat("/", 1<<20), strings.Repeat("\n", 1<<20)).AppendCombined(nil)); n > 6*maxLogField {
		t.Errorf("a line of %d bytes", n)
	}
}

func TestLogAttrs(t *testing.T) {
	var out bytes.Buffer
	e := logged("/a", "curl/8")
	e.Upgraded, e.Hedged, e.RequestID, e.Traceparent = true, true, "id-1", goodParent
	slog.New(slog.NewJSONHandler(&out, nil)).LogAttrs(context.Background(), slog.LevelInfo, "request", e.LogAttrs()...)
	var got map[string]any
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{
		"start": "2026-11-25T07:08:09+01:00", "peer": "2001:db8::1", "method": "GET", "host": "h.test", "target": "/a", "proto": "HTTP/1.1", "status": 502.,
		"duration": 1235e3, "request_bytes": 3., "response_bytes": 42., "backend": "b1", "attempts": 2., "user_agent": "curl/8", "upgraded": true, "hedged": true,
		"request_id": "id-1", "traceparent": goodParent, "err": "why",
	} {
		if got[name] != want {
			t.Errorf("%s is %v, want %v", name, got[name], want)
		}
	}
}

// FuzzAppendCombined: whatever a client sends, it is one line with three quoted
// fields.
func FuzzAppendCombined(f *testing.F) {
	f.Add("/a b", "x\"y\r\n", "GET")
	f.Fuzz(func(t *testing.T, uri, agent, method string) {
		e := logged(uri, agent)
		e.Request.Method = method
		line := string(e.AppendCombined(nil))
		if strings.Count(line, "\n") != 1 || strings.Count(line, `"`) != 6 || strings.ContainsAny(line, "\r\x00\x1b") {
			t.Fatalf("line %q", line)
		}
	})
}

// TestLogFields that are missing, long, or not what one would like to see in a log.
func TestLogFields(t *testing.T) {
	long := strings.Repeat("x", 2*maxLogField)
	e := logged("/a", "a\x7fb")
	e.Status, e.Request.RemoteAddr = 0, "@" // a hook panicked; a Unix socket
	e.Request.Header.Set("Referer", "http://r.test/")
	want := `- - - [25/Nov/2026:07:08:09 +0100] "GET /a HTTP/1.1" 000 42 "http://r.test/" "a\x7fb"` + "\n"
	if got := string(e.AppendCombined(nil)); got != want {
		t.Errorf("got  %swant %s", got, want)
	}
	attrs := func(e Event) map[string]string {
		out := make(map[string]string)
		for _, a := range e.LogAttrs() {
			out[a.Key] = a.Value.String()
		}
		return out
	}
	if got := attrs(e)["referer"]; got != "http://r.test/" {
		t.Errorf("referer %q", got)
	}
	e = logged("", "")
	e.Request.URL, e.Err = &url.URL{Path: "/p q", RawQuery: "x=1"}, nil
	got := attrs(e)
	if got["target"] != "/p%20q?x=1" {
		t.Errorf("the target of a request that no server has read is %q", got["target"])
	}
	for _, name := range []string{"referer", "user_agent", "request_id", "traceparent", "hedged", "upgraded", "err"} {
		if v, ok := got[name]; ok {
			t.Errorf("%s is %q, though there is none", name, v)
		}
	}
	e = logged(long, long)
	e.Request.Host, e.Request.Method = long, long
	e.Request.Header.Set("Referer", long)
	for name, v := range attrs(e) {
		if len(v) > maxLogField {
			t.Errorf("%s has %d bytes", name, len(v))
		}
	}
	if n := len(e.AppendCombined(nil)); n > 4*maxLogField+200 {
		t.Errorf("a line of %d bytes", n)
	}
}
