package qps

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestClasses(t *testing.T) {
	status := func(codes ...int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for _, c := range codes {
				w.WriteHeader(c)
			}
		}
	}
	gone := func(h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			r.Context().Value(leaveKey{}).(context.CancelFunc)()
			h(w, r)
		}
	}
	write := func(length, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if length != "" {
				w.Header().Set("Content-Length", length)
			}
			io.WriteString(w, body)
		}
	}
	for name, c := range map[string]struct {
		serve  http.HandlerFunc
		method string
		want   Counts
		errors bool
	}{
		"nothing written":           {serve: func(http.ResponseWriter, *http.Request) {}, want: Counts{Status2xx: 1}},
		"only a body":               {serve: write("", "x"), want: Counts{Status2xx: 1}},
		"204":                       {serve: status(204), want: Counts{Status2xx: 1}},
		"304":                       {serve: status(304), want: Counts{Status3xx: 1}},
		"404":                       {serve: status(404), want: Counts{Status4xx: 1}},
		"500":                       {serve: status(500), want: Counts{Status5xx: 1}, errors: true},
		"999":                       {serve: status(999), want: Counts{Status5xx: 1}, errors: true},
		"499":                       {serve: status(499), want: Counts{Aborted: 1}},
		"101":                       {serve: status(101), want: Counts{Status1xx: 1}},
		"early hints, then 200":     {serve: status(103, 200), want: Counts{Status2xx: 1}},
		"early hints, then nothing": {serve: status(103), want: Counts{Status2xx: 1}},
		"continue, then 503":        {serve: status(100, 503), want: Counts{Status5xx: 1}, errors: true},
		"the first status counts":   {serve: status(404, 500), want: Counts{Status4xx: 1}},
		"panic":                     {serve: func(http.ResponseWriter, *http.Request) { panic("no") }, want: Counts{Panic: 1}, errors: true},
		"panic after 200":           {serve: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(200); panic("no") }, want: Counts{Panic: 1}, errors: true},
		"abort":                     {serve: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, want: Counts{Aborted: 1}},
		"gone before the answer":    {serve: gone(func(http.ResponseWriter, *http.Request) {}), want: Counts{Aborted: 1}},
		"gone, so a proxy says 502": {serve: gone(status(502)), want: Counts{Aborted: 1}},
		"gone before a 404":         {serve: gone(status(404)), want: Counts{Status4xx: 1}},
		"gone in a stream":          {serve: gone(write("", "data")), want: Counts{Status2xx: 1}},
		"gone, body short":          {serve: gone(write("10", "data")), want: Counts{Aborted: 1}},
		"gone, body whole":          {serve: gone(write("4", "data")), want: Counts{Status2xx: 1}},
		"gone, HEAD":                {serve: gone(write("10", "")), method: "HEAD", want: Counts{Status2xx: 1}},
		"here, body short":          {serve: write("10", "data"), want: Counts{Status2xx: 1}},
		"500, then gone": {serve: func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(500)
			r.Context().Value(leaveKey{}).(context.CancelFunc)()
		}, want: Counts{Status5xx: 1}, errors: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMeter(t, Config{})
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				r := httptest.NewRequestWithContext(context.WithValue(ctx, leaveKey{}, cancel), "GET", "/", nil)
				if c.method != "" {
					r.Method = c.method
				}
				func() {
					defer func() { recover() }()
					m.Middleware(c.serve).ServeHTTP(httptest.NewRecorder(), r)
				}()
				time.Sleep(time.Second)
				got := only(t, m)
				if got.Counts != c.want || got.Requests() != 1 || got.InFlight != 0 {
					t.Errorf("%+v, %d in flight, want %+v", got.Counts, got.InFlight, c.want)
				}
				wantRatio := 0.0
				if c.errors {
					wantRatio = 1
				}
				if got.Rate(time.Second) != 1 || got.ErrorRatio(time.Second) != wantRatio {
					t.Errorf("rate %v, error ratio %v, want 1, %v", got.Rate(time.Second), got.ErrorRatio(time.Second), wantRatio)
				}
			})
		})
	}
}

type leaveKey struct{}

func TestWriteErrorOfAClientThatLeft(t *testing.T) {
	m := newMeter(t, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	h := m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(200)
		cancel()
		if _, err := io.WriteString(w, "too late"); !errors.Is(err, errBroken) {
			t.Errorf("Write: %v", err)
		}
	}))
	h.ServeHTTP(brokenWriter{httptest.NewRecorder()}, httptest.NewRequestWithContext(ctx, "GET", "/", nil))
	if got := only(t, m).Counts; got.Aborted != 1 {
		t.Errorf("%+v, want one aborted", got)
	}
}

var errBroken = errors.New("broken pipe")

type brokenWriter struct{ *httptest.ResponseRecorder }

func (brokenWriter) Write([]byte) (int, error)       { return 0, errBroken }
func (brokenWriter) WriteString(string) (int, error) { return 0, errBroken }

// TestDeadlineIsNotAClient: a context that ran out by itself says nothing about
// the client.
func TestDeadlineIsNotAClient(t *testing.T) {
	m := newMeter(t, Config{})
	ctx, cancel := context.WithDeadline(t.Context(), time.Now())
	defer cancel()
	h := m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(504) }))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "GET", "/", nil))
	if got := only(t, m).Counts; got.Status5xx != 1 {
		t.Errorf("%+v, want one 5xx", got)
	}
}

func TestPanicGoesOn(t *testing.T) {
	for _, want := range []any{"value", http.ErrAbortHandler, errBroken} {
		func() {
			defer func() {
				if got := recover(); got != want {
					t.Errorf("recovered %v, want %v", got, want)
				}
			}()
			h := newMeter(t, Config{}).Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(want) }))
			h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
		}()
	}
}

func TestGoexitIsRecorded(t *testing.T) {
	m := newMeter(t, Config{})
	var wg sync.WaitGroup
	wg.Go(func() {
		h := m.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { runtime.Goexit() }))
		h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	})
	wg.Wait()
	if got := only(t, m); got.Counts.Aborted != 1 || got.InFlight != 0 {
		t.Errorf("%+v, %d in flight, want one aborted", got.Counts, got.InFlight)
	}
}

func TestRoutes(t *testing.T) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /notes/{id}", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/named", func(w http.ResponseWriter, _ *http.Request) {
		if !SetRoute(w, "first") || !SetRoute(w, "second") || !SetRoute(w, "") {
			t.Error("SetRoute found no Meter")
		}
	})
	for target, want := range map[string]string{
		"/notes/1": "GET /notes/{id}",
		"/named":   "second",
		"/nowhere": other,
	} {
		m := newMeter(t, Config{})
		m.Middleware(mux).ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", target, nil))
		for _, got := range m.Snapshot().Routes {
			if (got.Route == want) != (got.Requests() == 1) || got.Method != "GET" {
				t.Errorf("%s: route %q, method %q has %d requests, want one in %q", target, got.Route, got.Method, got.Requests(), want)
			}
		}
	}
	if SetRoute(httptest.NewRecorder(), "x") {
		t.Error("SetRoute found a Meter where none is")
	}
	if SetRoute(circle{}, "x") {
		t.Error("SetRoute found a Meter in a circle")
	}
}

type circle struct{ http.ResponseWriter }

func (c circle) Unwrap() http.ResponseWriter { return c }

func TestMiddlewareInsideMux(t *testing.T) {
	m := newMeter(t, Config{})
	mux := http.NewServeMux()
	mux.Handle("GET /slow", m.Middleware(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		if got := only(t, m); got.Route != "GET /slow" || got.InFlight != 1 {
			t.Errorf("route %q has %d in flight, want one of GET /slow", got.Route, got.InFlight)
		}
	})))
	mux.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/slow", nil))
	if got := only(t, m); got.InFlight != 0 || got.Requests() != 1 {
		t.Errorf("%+v", got)
	}
}

type unwrapping struct{ http.ResponseWriter }

func (u unwrapping) Unwrap() http.ResponseWriter { return u.ResponseWriter }

// TestSetRouteMovesInFlight goes through another wrapper and two Meters.
func TestSetRouteMovesInFlight(t *testing.T) {
	outer, inner := newMeter(t, Config{}), newMeter(t, Config{})
	var kept http.ResponseWriter
	named := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if got := only(t, inner); got.Route != other || got.InFlight != 1 {
			t.Errorf("before: %+v", got)
		}
		kept = w
		SetRoute(unwrapping{w}, "a")
		SetRoute(unwrapping{w}, "notes")
		for _, m := range []*Meter{outer, inner} {
			for _, r := range m.Snapshot().Routes {
				if want := map[string]int64{"a": 0, "notes": 1}[r.Route]; r.InFlight != want {
					t.Errorf("%q has %d in flight, want %d", r.Route, r.InFlight, want)
				}
			}
		}
	})
	h := outer.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		inner.Middleware(named).ServeHTTP(unwrapping{w}, r)
	}))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("POST", "/", nil))
	if SetRoute(kept, "late") || SetRoute(kept, "") {
		t.Error("SetRoute renamed a request that has ended")
	}
	for _, m := range []*Meter{outer, inner} {
		for _, r := range m.Snapshot().Routes {
			if want := map[string]uint64{"notes": 1}[r.Route]; r.Requests() != want || r.InFlight != 0 || r.Method != "POST" {
				t.Errorf("%q: %d requests, %d in flight, want %d and none", r.Route, r.Requests(), r.InFlight, want)
			}
		}
	}
}

// TestMeterCountsEveryRequest serves requests from several goroutines that
// differ in everything, and checks each total.
func TestMeterCountsEveryRequest(t *testing.T) {
	const workers, each = 8, 3_000
	m := newMeter(t, Config{})
	mux := http.NewServeMux()
	for i := range 4 {
		mux.HandleFunc(fmt.Sprintf("/%d", i), func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			if i == 3 {
				SetRoute(w, "three")
			}
			w.WriteHeader(200 + 100*i)
			io.WriteString(w, "four")
		})
	}
	h := m.Middleware(mux)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for i := range each {
				r := httptest.NewRequest("PUT", fmt.Sprintf("/%d", i%4), strings.NewReader("abc"))
				h.ServeHTTP(httptest.NewRecorder(), r)
			}
		})
	}
	for range 20 {
		for _, r := range m.Snapshot().Routes {
			if r.InFlight < 0 || r.InFlight > workers {
				t.Errorf("%d in flight", r.InFlight)
			}
		}
	}
	wg.Wait()
	const n = workers * each / 4
	want := map[string]Counts{"/0": {Status2xx: n}, "/1": {Status3xx: n}, "/2": {Status4xx: n}, "three": {Status5xx: n}}
	got := make(map[string]Counts)
	for _, r := range m.Snapshot().Routes {
		if r.InFlight != 0 {
			t.Errorf("%q has %d in flight after the end", r.Route, r.InFlight)
		}
		if r.Requests() == 0 {
			continue
		}
		got[r.Route] = r.Counts
		if r.Duration.Count() != n || r.BytesIn != 3*n || r.BytesOut != 4*n {
			t.Errorf("%q: %d durations, %d bytes in, %d out; want %d, %d, %d", r.Route, r.Duration.Count(), r.BytesIn, r.BytesOut, n, 3*n, 4*n)
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("counts %+v, want %+v", got, want)
	}
	for i := range 4 {
		name := fmt.Sprintf("/%d", i)
		if i == 3 {
			name = "three"
		}
		r, _ := m.routes.find(name)
		if total := r.series(methodOf("PUT")).total(); total != n {
			t.Errorf("the ring of %q has %d, want %d", name, total, n)
		}
	}
}

// TestHostileRoutes is a program that makes the mistake of naming routes after
// the request, and a client that makes up methods and paths.
func TestHostileRoutes(t *testing.T) {
	const requests, limit = 100_000, 32
	m := newMeter(t, Config{MaxRoutes: limit})
	h := m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { SetRoute(w, r.URL.Path) }))
	r := httptest.NewRequest("GET", "/", nil)
	rec := httptest.NewRecorder()
	before := heap()
	for i := range requests {
		r.Method = fmt.Sprintf("M%d", i)
		r.URL.Path = fmt.Sprintf("/%d/%s", i, strings.Repeat("p", 500))
		h.ServeHTTP(rec, r)
	}
	if grown := int64(heap()) - int64(before); grown > 1<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
	s := m.Snapshot()
	if len(s.Routes) != limit+1 {
		t.Fatalf("%d series, want %d routes and other", len(s.Routes), limit)
	}
	var total uint64
	for _, r := range s.Routes {
		total += r.Requests()
		if r.Method != other || !isLabel(r.Route) {
			t.Errorf("route %q, method %q", r.Route, r.Method)
		}
	}
	if total != requests || s.Overflow != requests-limit {
		t.Errorf("%d requests, %d of them overflowed; want %d, %d", total, s.Overflow, requests, requests-limit)
	}
}

func TestAllocations(t *testing.T) {
	m := newMeter(t, Config{})
	mux := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		SetRoute(w, "route")
		w.WriteHeader(200)
	})
	h := m.Middleware(mux)
	r := httptest.NewRequest("POST", "/", strings.NewReader("body"))
	w := new(nullWriter)
	if n := testing.AllocsPerRun(1000, func() { h.ServeHTTP(w, r) }); n > 1 {
		t.Errorf("%v allocations per request, want at most 1", n)
	}
	u := m.Upstream("db")
	if n := testing.AllocsPerRun(1000, func() { m.Upstream("db").Observe(time.Millisecond, true) }); n > 0 {
		t.Errorf("%v allocations per call to an upstream, want none", n)
	}
	if u.total() == 0 {
		t.Error("nothing was recorded")
	}
}

type nullWriter struct{}

func (*nullWriter) Header() http.Header         { return nil }
func (*nullWriter) Write(p []byte) (int, error) { return len(p), nil }
func (*nullWriter) WriteHeader(int)             {}

func TestBodyIsGivenBack(t *testing.T) {
	m := newMeter(t, Config{})
	r := httptest.NewRequest("POST", "/", strings.NewReader("body"))
	before := r.Body
	m.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.Body == before {
			t.Error("the body is not counted")
		}
	})).ServeHTTP(httptest.NewRecorder(), r)
	if r.Body != before {
		t.Error("the body was not given back")
	}
	// Transports compare with NoBody; it must stay what it is.
	r.Body = http.NoBody
	m.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if r.Body != http.NoBody {
			t.Error("NoBody was wrapped")
		}
	})).ServeHTTP(httptest.NewRecorder(), r)
}

func TestNewNamesEveryMistake(t *testing.T) {
	_, err := New(Config{Server: "a\xff", MaxRoutes: -1})
	if err == nil || !strings.Contains(err.Error(), `"a\xff"`) || !strings.Contains(err.Error(), "-1") {
		t.Errorf("New: %v", err)
	}
	if _, err := New(Config{MaxRoutes: mostRoutes + 1}); err == nil {
		t.Error("New took more routes than a snapshot may have")
	}
}

// TestOverflowFollowsTheRoute: a request overflows if its last route has no place.
func TestOverflowFollowsTheRoute(t *testing.T) {
	m := newMeter(t, Config{MaxRoutes: 1})
	h := m.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, name := range r.URL.Query()["r"] {
			SetRoute(w, name)
		}
	}))
	inside := http.NewServeMux()
	inside.Handle("/", h)
	for i, c := range []struct {
		h    http.Handler
		path string
		over uint64
	}{
		{h, "/?r=a", 0}, {h, "/?r=b", 1}, {h, "/?r=b&r=a", 1}, {h, "/?r=a&r=b", 2}, {h, "/", 2},
		{inside, "/", 3}, {inside, "/?r=a", 3}, {inside, "/?r=c", 4}, {m.Middleware(inside), "/x", 6},
	} {
		c.h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", c.path, nil))
		if got := m.Snapshot().Overflow; got != c.over {
			t.Errorf("request %d, %s: %d in all, want %d", i, c.path, got, c.over)
		}
	}
}
