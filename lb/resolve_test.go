package lb

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func ids(p *Pool) string {
	var out []string
	for _, s := range p.Status() {
		out = append(out, s.ID)
	}
	return strings.Join(out, " ")
}

func TestResolver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // guards the next three
		var answer Resolution
		fails := errors.New("no name server")
		err := fails
		asked := 0
		var logged bytes.Buffer
		p := poolOf(t, PoolConfig{
			Backends: []BackendConfig{{ID: "first", URL: "http://h"}},
			Logger:   slog.New(slog.NewTextHandler(&logged, nil)),
			Resolver: ResolverFunc(func(ctx context.Context) (Resolution, error) {
				if d, ok := ctx.Deadline(); !ok || time.Until(d) != resolveTimeout {
					t.Errorf("deadline %v, %v", d, ok)
				}
				mu.Lock()
				defer mu.Unlock()
				asked++
				return answer, err
			}),
		}, 0)
		defer p.Close()
		set := func(f func()) {
			mu.Lock()
			defer mu.Unlock()
			f()
		}
		expect := func(want string) {
			t.Helper()
			synctest.Wait()
			if got := ids(p); got != want {
				t.Errorf("backends %s, want %s", got, want)
			}
		}
		expect("first")
		time.Sleep(20 * time.Second) // 1, 2, 4 and 8 s
		if expect("first"); asked < 4 || asked > 6 {
			t.Errorf("asked %d times in 20 s of errors", asked)
		}
		set(func() {
			answer = Resolution{Backends: []BackendConfig{{ID: "a", URL: "http://a"}, {ID: "b", URL: "http://b"}}, TTL: 5 * time.Second}
			err = nil
		})
		time.Sleep(20 * time.Second)
		expect("a b")
		// As long as the answer stays, what others change stays, too.
		p.Upsert(BackendConfig{ID: "c", URL: "http://c"})
		set(func() { asked = 0 })
		time.Sleep(10 * time.Second)
		if expect("a b c"); asked != 2 {
			t.Errorf("asked %d times in 10 s, with a TTL of 5", asked)
		}
		// What Set refuses changes nothing.
		set(func() { answer.Backends = []BackendConfig{{ID: "d", URL: "http://d"}, {URL: "bad"}} })
		time.Sleep(10 * time.Second)
		expect("a b c")
		set(func() { answer.Backends = []BackendConfig{{ID: "d", URL: "http://d"}} })
		time.Sleep(10 * time.Second)
		expect("d")
		set(func() { answer.TTL, asked = time.Nanosecond, 0 })
		time.Sleep(15 * time.Second)
		synctest.Wait()
		if asked > 151 {
			t.Errorf("asked %d times in 15 s", asked)
		}
		if n := strings.Count(logged.String(), "WARN"); n != 2 || strings.Count(logged.String(), "resolved again") != 2 {
			t.Errorf("the log has %d warnings, want one for each time of errors:\n%s", n, logged.String())
		}
	})
}

// Close does not wait for a look-up.
func TestCloseEndsAResolver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := poolOf(t, PoolConfig{Resolver: ResolverFunc(func(ctx context.Context) (Resolution, error) {
			<-ctx.Done()
			return Resolution{}, ctx.Err()
		})}, 0)
		synctest.Wait()
		start := time.Now()
		p.Close()
		if took := time.Since(start); took != 0 {
			t.Errorf("Close took %v", took)
		}
	})
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "backends.json")
	replace := func(text string) {
		t.Helper()
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	resolve := func() (Resolution, error) { return File{Path: path}.Resolve(t.Context()) }
	if _, err := resolve(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a file: %v", err)
	}
	replace(`[{"url": "http://a", "id": "x", "weight": 2, "priority": 1, "zone": "z"}, {"url": "http://b"}]`)
	r, err := resolve()
	want := []BackendConfig{{ID: "x", URL: "http://a", Weight: 2, Priority: 1, Zone: "z"}, {URL: "http://b"}}
	if err != nil || !reflect.DeepEqual(r.Backends, want) || r.TTL != time.Second {
		t.Errorf("%+v, %v, want %+v", r, err, want)
	}
	for _, bad := range []string{"", "[]", "null", "{}", `[{"url": "http://a"}`, `[{"url": "http://a"}] x`, `[{"url": "http://a", "wieght": 2}]`, `[{"url": "ftp://a"}]`, `[{"url": "http://a"}, {"url": "http://a"}]`, "[" + strings.Repeat(" ", maxFile) + "]"} {
		replace(bad)
		if _, err := resolve(); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%.60q: %v", bad, err)
		}
	}
	replace(`[{"url": "http://a"} x`)
	if _, err := resolve(); !isType[*json.SyntaxError](err) {
		t.Errorf("the cause of %v cannot be seen", err)
	}
	replace(`[{"url": "http://a"}]`)
	if r, err := (File{Path: path, Interval: 7 * time.Second}).Resolve(t.Context()); err != nil || r.TTL != 7*time.Second {
		t.Errorf("an Interval of 7 s is a TTL of %v, %v", r.TTL, err)
	}
}

func isType[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}

// FuzzFile: what is taken is good for a pool, and the same after a round trip.
func FuzzFile(f *testing.F) {
	f.Add([]byte(`[{"url": "http://a", "weight": 2}]`))
	f.Add([]byte(`[{"URL": "https://[::1]:8", "id": "\u00e9"}] `))
	f.Fuzz(func(t *testing.T, data []byte) {
		backends, err := parseFile(data)
		if err != nil {
			return
		}
		if _, err := parseBackends(backends); err != nil || len(backends) == 0 {
			t.Fatalf("%q: %d backends, %v", data, len(backends), err)
		}
		again, err := json.Marshal(backends)
		if err != nil {
			t.Fatal(err)
		}
		if back, err := parseFile(again); err != nil || !reflect.DeepEqual(back, backends) {
			t.Fatalf("%q gives %+v, and %q gives %+v, %v", data, backends, again, back, err)
		}
	})
}
