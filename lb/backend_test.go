package lb

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestBackendConfig(t *testing.T) {
	for _, c := range []struct {
		conf BackendConfig
		id   string // of a good one
		want string // in the error of a bad one
	}{
		{conf: BackendConfig{URL: "http://10.0.0.5:8080"}, id: "10.0.0.5:8080"},
		{conf: BackendConfig{URL: "https://web1/", ID: "w"}, id: "w"},
		{conf: BackendConfig{URL: "h2c://h:50051"}, id: "h:50051"},
		{conf: BackendConfig{URL: "http://[2001:db8::1]:80"}, id: "[2001:db8::1]:80"},
		{conf: BackendConfig{URL: "HTTP://WEB1.Test"}, id: "web1.test"},
		{conf: BackendConfig{URL: "tcp://h:1"}, id: "h:1"},
		{conf: BackendConfig{URL: "udp://h:65535"}, id: "h:65535"},
		{conf: BackendConfig{URL: "http://h", ID: strings.Repeat("x", maxIDLength), Priority: maxPriority}, id: strings.Repeat("x", maxIDLength)},
		{conf: BackendConfig{URL: "http://h", ID: strings.Repeat("x", maxIDLength+1)}, want: "want at most 256 bytes"},
		{conf: BackendConfig{URL: "http://h", ID: "a\x7f"}, want: "no control characters"},
		{conf: BackendConfig{URL: "http://h", Priority: maxPriority + 1}, want: "priority is 128, want 0 to 127"},
		{conf: BackendConfig{URL: "http://h", Priority: -1}, want: "priority is -1"},
		{conf: BackendConfig{URL: "tcp://h"}, want: "a port, as in tcp://host:port"},
		{conf: BackendConfig{URL: "udp://h"}, want: "a port"},
		{conf: BackendConfig{URL: "http://h#"}, want: "no fragment"},
		{conf: BackendConfig{URL: ""}, want: "the scheme http or https"},
		{conf: BackendConfig{URL: "10.0.0.5:8080"}, want: `URL is "10.0.0.5:8080"`},
		{conf: BackendConfig{URL: "ftp://h"}, want: "the scheme http or https"},
		{conf: BackendConfig{URL: "http:h"}, want: "a host"},
		{conf: BackendConfig{URL: "http://:80"}, want: "a host, as in http://host:port"},
		{conf: BackendConfig{URL: "udp://:80"}, want: "a host, as in udp://host:port"},
		{conf: BackendConfig{URL: "udp://h"}, want: "a port, as in udp://host:port"},
		{conf: BackendConfig{URL: "http://h/api"}, want: "no path"},
		{conf: BackendConfig{URL: "http://h?"}, want: "no query"},
		{conf: BackendConfig{URL: "http://h?a=b"}, want: "no query"},
		{conf: BackendConfig{URL: "http://h#f"}, want: "no fragment"},
		{conf: BackendConfig{URL: "http://h:0"}, want: "a port"},
		{conf: BackendConfig{URL: "http://h:65536"}, want: "a port"},
		{conf: BackendConfig{URL: "http://h:"}, want: "a port"},
		{conf: BackendConfig{URL: "http://u:secret@h"}, want: "no user information"},
		{conf: BackendConfig{URL: "http://u:secret@h:x%"}, want: "cannot be parsed"},
		{conf: BackendConfig{URL: "http://h", Weight: -1}, want: "weight is -1, want 0 to 1000000"},
		{conf: BackendConfig{URL: "http://h", Weight: maxWeight + 1}, want: "weight is 1000001"},
		{conf: BackendConfig{URL: "http://h", ID: "a\nb"}, want: `ID is "a\nb"`},
	} {
		got, u, err := c.conf.parse()
		switch {
		case c.want == "" && (err != nil || got.ID != c.id || got.Weight != 1 || u == nil):
			t.Errorf("%+v: %+v, %v, %v", c.conf, got, u, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%+v: error %v, want one with %q", c.conf, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: the error shows the password: %v", c.conf, err)
		}
	}
}

func TestLargestWeight(t *testing.T) {
	p := poolOf(t, PoolConfig{Backends: []BackendConfig{{URL: "http://h", Weight: maxWeight}}}, 0)
	if w := p.backends[0].Weight(); w != maxWeight {
		t.Errorf("weight %d, want %d", w, maxWeight)
	}
	u := p.backends[0].URL()
	if u.Host = "changed"; p.backends[0].URL().Host != "h" {
		t.Error("URL is no copy")
	}
}

// TestStatusIsOfTheBackend fills each field.
func TestStatusIsOfTheBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := poolOf(t, PoolConfig{
			Outlier: &OutlierDetection{Consecutive: 2, EjectionTime: time.Minute}, SlowStart: time.Hour,
			AdaptiveLimit: &AdaptiveLimit{Start: 9}, MaxInFlight: 50,
		}, 2)
		defer p.Close()
		time.Sleep(time.Second)
		if err := p.Upsert(BackendConfig{ID: "x", URL: "http://h", Weight: 3, Priority: 0, Zone: "z"}); err != nil {
			t.Fatal(err)
		}
		b := p.backends[2]
		b.limiter.base = float64(time.Millisecond)
		b.acquire()
		for range 3 {
			b.acquire()
			Picked{backend: b, pool: p}.Done(Outcome{Result: Failed, Err: errors.New("cause")})
		}
		want := BackendStatus{
			ID: "x", URL: "http://h", Weight: 3, Zone: "z", State: Ejected, InFlight: 1, Limit: 9, BaseLatency: time.Millisecond,
			Requests: 4, Failures: 3, LastError: "cause", Since: time.Now(), Circuit: CircuitOpen,
			FailuresInARow: 3, EjectedUntil: time.Now().Add(time.Minute),
		}
		got := p.Status()[2]
		if !got.Since.Equal(want.Since) || !got.EjectedUntil.Equal(want.EjectedUntil) {
			t.Errorf("since %v until %v, want since %v until %v", got.Since, got.EjectedUntil, want.Since, want.EjectedUntil)
		}
		got.Since, got.EjectedUntil = want.Since, want.EjectedUntil
		if got != want {
			t.Errorf("status %+v,\nwant %+v", got, want)
		}
		p.Upsert(BackendConfig{ID: "x", URL: "http://h", Priority: 5})
		if got := p.Status()[2]; got.Priority != 5 || got.Zone != "" || got.Weight != 1 {
			t.Errorf("after a change %+v", got)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := p.Status()[2]; got.State != Healthy || got.Circuit != CircuitHalfOpen || !got.EjectedUntil.IsZero() || !got.Since.Equal(time.Now()) || got.FailuresInARow != 0 {
			t.Errorf("after the ejection %+v", got)
		}
		// A drain shows whatever else there is to say.
		for _, s := range []State{Unknown, Healthy, Unhealthy} {
			b.health.Store(int32(s))
			b.draining.Store(true)
			if got := b.State(); got != Draining {
				t.Errorf("%v and draining is %v", s, got)
			}
			b.draining.Store(false)
		}
	})
}

// FuzzBackendURL: what is accepted is exactly a scheme and a host, and is its
// own normal form.
func FuzzBackendURL(f *testing.F) {
	for _, s := range []string{"http://h", "https://h:443/", "http://[::1]:80", "http://a@b", "http://h/p?q#f", "http://H:080", "//h", "http://h:", "tcp://h:1", "udp://h"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := parseBackendURL(s)
		if err != nil {
			return
		}
		if (u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "h2c" && (!isLayer4(u) || u.Port() == "")) || u.Hostname() == "" || *u != (url.URL{Scheme: u.Scheme, Host: u.Host}) {
			t.Fatalf("%q gives %#v", s, u)
		}
		again, err := parseBackendURL(u.String())
		if err != nil || *again != *u {
			t.Fatalf("%q gives %q, which gives %v, %v", s, u, again, err)
		}
	})
}

func TestStateText(t *testing.T) {
	for s := Unknown; s <= Ejected; s++ {
		text, err := s.MarshalText()
		if err != nil || string(text) != s.String() {
			t.Errorf("%v: text %q, %v", s, text, err)
		}
		var back State
		if err := back.UnmarshalText(text); err != nil || back != s {
			t.Errorf("%q: %v, %v, want %v", text, back, err, s)
		}
	}
	for _, s := range []State{-1, Ejected + 1, 9} {
		if text, err := s.MarshalText(); err == nil || s.String() != fmt.Sprintf("State(%d)", int32(s)) {
			t.Errorf("State(%d): %v, %q, %v", int32(s), s, text, err)
		}
	}
	if got := fmt.Sprint(Unknown, Healthy, Unhealthy, Draining, Ejected); got != "unknown healthy unhealthy draining ejected" {
		t.Errorf("the states are %s", got)
	}
	if err := new(State).UnmarshalText(nil); err == nil {
		t.Error("nothing was taken for a state")
	}
	if err := new(State).UnmarshalText([]byte("Healthy")); err == nil {
		t.Error(`"Healthy" was taken for a state`)
	}
}

func TestStatusAsJSON(t *testing.T) {
	got, err := json.Marshal(BackendStatus{ID: "w", URL: "http://h", Weight: 1, State: Unhealthy, LastError: "e", Since: time.Unix(0, 0).UTC()})
	want := `{"id":"w","url":"http://h","weight":1,"state":"unhealthy","in_flight":0,"requests":0,"failures":0,"last_error":"e","since":"1970-01-01T00:00:00Z","circuit":"closed"}`
	if err != nil || string(got) != want {
		t.Errorf("got %s, %v\nwant %s", got, err, want)
	}
}
