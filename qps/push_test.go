package qps

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// pushedTo is a server that is asked without a network.
type pushedTo struct {
	answer func() (status int, err error)
	at     []time.Duration
	bodies []string
	start  time.Time
	last   *http.Request
}

func (p *pushedTo) RoundTrip(r *http.Request) (*http.Response, error) {
	zip, err := gzip.NewReader(r.Body)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(zip)
	if err != nil {
		return nil, err
	}
	p.at, p.bodies, p.last = append(p.at, time.Since(p.start)), append(p.bodies, string(body)), r
	status, err := p.answer()
	if err != nil {
		return nil, err
	}
	return &http.Response{StatusCode: status, Status: http.StatusText(status), Body: io.NopCloser(strings.NewReader(""))}, nil
}

// TestPush: pushes come at their times, sooner after a failure, and once more at
// the end; what is logged names no password.
func TestPush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var failures atomic.Int32
		server := &pushedTo{start: time.Now()}
		server.answer = func() (int, error) {
			if failures.Load() == 0 {
				return http.StatusNoContent, nil
			}
			if failures.Add(-1)%2 == 0 {
				return http.StatusServiceUnavailable, nil
			}
			return 0, errors.New("no route to host")
		}
		var log bytes.Buffer
		m := newMeter(t, Config{
			Server: "web1", Logger: slog.New(slog.NewTextHandler(&log, nil)),
			Push: &Push{
				URL: "http://me:secret@vm.test/api/v1/import/prometheus", Interval: 10 * time.Second,
				Header: http.Header{"X-Scope": {"a"}}, Client: &http.Client{Transport: server},
			},
		})
		m.Upstream("db").Observe(time.Millisecond, false)
		time.Sleep(25 * time.Second) // 10, 20
		failures.Store(5)            // 30, 31, 33, 37, 45
		time.Sleep(35 * time.Second) // 55
		m.Upstream("db").Observe(time.Millisecond, false)
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
		m.Close()
		time.Sleep(time.Minute)
		var want []time.Duration
		for _, s := range []int{10, 20, 30, 31, 33, 37, 45, 55, 60} {
			want = append(want, time.Duration(s)*time.Second)
		}
		if !slices.Equal(server.at, want) {
			t.Errorf("pushed at %v, want %v", server.at, want)
		}
		if last := server.bodies[len(server.bodies)-1]; !strings.Contains(last, `upstream_requests_total{server="web1",upstream="db",result="ok"} 2`) {
			t.Errorf("the last push lacks what was recorded:\n%s", last)
		}
		h := server.last.Header
		if h.Get("Content-Encoding") != "gzip" || h.Get("X-Scope") != "a" || server.last.Method != "POST" || server.last.URL.Path != "/api/v1/import/prometheus" {
			t.Errorf("%s %s %v", server.last.Method, server.last.URL, h)
		}
		if n := strings.Count(log.String(), "\n"); n != 2 || strings.Contains(log.String(), "secret") || !strings.Contains(log.String(), "vm.test") {
			t.Errorf("%d lines logged, want two, without the password:\n%s", n, &log)
		}
	})
}

// TestPushIsNotRedirectedToNothing: a redirect that makes a GET of the POST would be
// answered with 200, and nothing would have been sent.
func TestPushIsNotRedirectedToNothing(t *testing.T) {
	for status, want := range map[int]string{301: "301", 302: "302", 303: "303", 307: "", 308: ""} {
		var posted atomic.Int32
		mux := http.NewServeMux()
		mux.Handle("/old", http.RedirectHandler("/new", status))
		mux.HandleFunc("/new", func(_ http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost && r.ContentLength > 0 {
				posted.Add(1)
			}
		})
		mux.Handle("/loop", http.RedirectHandler("/loop", status))
		server := httptest.NewServer(mux)
		p := newPusher(Push{URL: server.URL + "/old", Client: server.Client()}, func(w io.Writer) { io.WriteString(w, "up 1\n") }, nil)
		err := p.push(t.Context())
		if want == "" && (err != nil || posted.Load() != 1) || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%d: pushed %d times, %v", status, posted.Load(), err)
		}
		p.conf.URL = server.URL + "/loop"
		if err := p.push(t.Context()); err == nil {
			t.Errorf("%d: a loop ended well", status)
		}
		server.Close()
	}
}

func TestPushIsChecked(t *testing.T) {
	for _, p := range []Push{
		{}, {URL: "vm.test/x"}, {URL: "ftp://vm.test"}, {URL: "http://"}, {URL: "http://me:secret@%zz"},
		{URL: "http://vm.test", Interval: time.Millisecond}, {URL: "http://vm.test", Interval: -1},
	} {
		_, err := New(Config{Push: &p})
		if err == nil || !strings.Contains(err.Error(), "Push.") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: %v", p, err)
		}
	}
}
