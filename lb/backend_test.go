package lb

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
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
		{conf: BackendConfig{URL: ""}, want: "the scheme http or https"},
		{conf: BackendConfig{URL: "10.0.0.5:8080"}, want: `URL is "10.0.0.5:8080"`},
		{conf: BackendConfig{URL: "ftp://h"}, want: "the scheme http or https"},
		{conf: BackendConfig{URL: "http:h"}, want: "a host"},
		{conf: BackendConfig{URL: "http://:80"}, want: "a host"},
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

// FuzzBackendURL: what is accepted is exactly a scheme and a host, and is its
// own normal form.
func FuzzBackendURL(f *testing.F) {
	for _, s := range []string{"http://h", "https://h:443/", "http://[::1]:80", "http://a@b", "http://h/p?q#f", "http://H:080", "//h", "http://h:"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := parseBackendURL(s)
		if err != nil {
			return
		}
		if (u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "h2c") || u.Hostname() == "" || *u != (url.URL{Scheme: u.Scheme, Host: u.Host}) {
			t.Fatalf("%q gives %#v", s, u)
		}
		again, err := parseBackendURL(u.String())
		if err != nil || *again != *u {
			t.Fatalf("%q gives %q, which gives %v, %v", s, u, again, err)
		}
	})
}

func TestStateText(t *testing.T) {
	for s := Unknown; s <= Draining; s++ {
		text, err := s.MarshalText()
		if err != nil || string(text) != s.String() {
			t.Errorf("%v: text %q, %v", s, text, err)
		}
		var back State
		if err := back.UnmarshalText(text); err != nil || back != s {
			t.Errorf("%q: %v, %v, want %v", text, back, err, s)
		}
	}
	if _, err := State(9).MarshalText(); err == nil || State(9).String() != "State(9)" {
		t.Errorf("State(9): %v, %v", State(9), err)
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
