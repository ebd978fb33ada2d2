package lb

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"
)

func affinityKey(b byte) []byte { return bytes.Repeat([]byte{b}, minAffinityKey) }

func TestAffinityMistakes(t *testing.T) {
	_, err := NewProxy(ProxyConfig{Affinity: &Affinity{Keys: [][]byte{affinityKey(1), []byte("short secret")}, Cookie: "a b", MaxAge: time.Millisecond}})
	for _, want := range []string{"Keys[1] has 12 bytes, want 32", `Cookie is "a b"`, "MaxAge is 1ms"} {
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("the error lacks %q, or shows a key:\n%v", want, err)
		}
	}
	if _, err := NewProxy(ProxyConfig{Affinity: new(Affinity)}); err == nil || !strings.Contains(err.Error(), "Keys has 0 keys") {
		t.Errorf("without keys: %v", err)
	}
}

// TestAffinityBounds: what is just right, and what is one off.
func TestAffinityBounds(t *testing.T) {
	keys := func(n, size int) (out [][]byte) {
		for range n {
			out = append(out, make([]byte, size))
		}
		return out
	}
	for _, c := range []struct {
		conf Affinity
		want string // in the error
	}{
		{Affinity{Keys: keys(maxAffinityKeys, minAffinityKey), MaxAge: time.Second}, ""},
		{Affinity{Keys: keys(maxAffinityKeys+1, minAffinityKey)}, "Keys has 17 keys, want 1 to 16"},
		{Affinity{Keys: keys(1, minAffinityKey-1)}, "Keys[0] has 31 bytes"},
		{Affinity{Keys: keys(1, minAffinityKey), MaxAge: -time.Second}, "MaxAge is -1s"},
		{Affinity{Keys: keys(1, minAffinityKey), MaxAge: 1500 * time.Millisecond}, "MaxAge is 1.5s"},
	} {
		err := c.conf.validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
	// The name is part of the key, and a value has one form.
	s := newSealer(affinityKey(1), "backend")
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	sealed := s.seal("b00") // 19 bytes in 26 characters, of which the last has four bits too many
	last := strings.IndexByte(alphabet, sealed[len(sealed)-1])
	for name, value := range map[string]string{
		"another name": newSealer(affinityKey(1), "other").seal("b0"), "left-over bits": sealed[:len(sealed)-1] + alphabet[last|1:last|1+1],
		"too long": s.seal(strings.Repeat("x", maxIDLength+1)),
	} {
		if id, ok := s.open(value); ok {
			t.Errorf("%s: %q opens as %q", name, value, id)
		}
	}
}

// TestPinnedBackendIsFull: the client gets another this once, and keeps its
// cookie.
func TestPinnedBackendIsFull(t *testing.T) {
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	own := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.Header().Add("Set-Cookie", "mine=1") })
	r := newRig(t, PoolConfig{MaxInFlight: 1}, ProxyConfig{Affinity: &Affinity{Keys: [][]byte{affinityKey(1)}}}, nil, own, own)
	pinned := "backend=" + newSealer(affinityKey(1), "backend").seal("b0")
	ask := func(when, backend, cookies string) {
		t.Helper()
		req, _ := http.NewRequestWithContext(t.Context(), "GET", r.server.URL, nil)
		req.Header.Set("Cookie", pinned)
		res, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		var names []string
		for _, c := range res.Cookies() {
			names = append(names, c.Name)
		}
		if e := r.event(); e.Backend != backend || strings.Join(names, " ") != cookies {
			t.Errorf("%s: came to %s with the cookies %q, want %s with %q", when, e.Backend, names, backend, cookies)
		}
	}
	b := r.pool.backends[0]
	b.acquire()
	ask("full", "b1", "mine")
	b.inFlight.Add(-1)
	ask("with room", "b0", "mine")
	// So it is when nothing is known of it yet, but not when it is ill.
	r.pool.mu.Lock()
	b.health.Store(int32(Unknown))
	r.pool.publish()
	r.pool.mu.Unlock()
	ask("unknown", "b0", "mine")
	r.pool.mu.Lock()
	b.health.Store(int32(Healthy))
	b.conduct.ejected.Store(true)
	r.pool.publish()
	r.pool.mu.Unlock()
	ask("ejected", "b1", "mine backend")
}

// affine sends a request with a cookie, which may be empty, and returns the
// backend that got it and the cookie that came back.
func affine(t *testing.T, r *rig, cookie string) (string, *http.Cookie) {
	t.Helper()
	req, _ := http.NewRequestWithContext(context.Background(), "GET", r.server.URL, nil)
	if cookie != "" {
		req.Header.Set("Cookie", "other=1; "+cookie+"; more=2")
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != 200 {
		t.Fatalf("status %d", res.StatusCode)
	}
	e := r.event()
	switch c := res.Cookies(); len(c) {
	case 0:
		return e.Backend, nil
	case 1:
		return e.Backend, c[0]
	}
	t.Fatalf("cookies %v", res.Cookies())
	return "", nil
}

func TestAffinity(t *testing.T) {
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	keys := [][]byte{affinityKey(1)}
	conf := ProxyConfig{Affinity: &Affinity{Keys: keys, MaxAge: time.Hour}}
	r := newRig(t, PoolConfig{}, conf, nil, new(seen), new(seen), new(seen))
	keys[0] = nil // which the proxy has copied
	first, c := affine(t, r, "")
	if c == nil || c.Name != "backend" || !c.HttpOnly || c.Secure || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.MaxAge != 3600 {
		t.Fatalf("cookie %+v", c)
	}
	if raw, _ := base64.RawURLEncoding.DecodeString(c.Value); bytes.Contains(raw, []byte(first)) {
		t.Errorf("the cookie %q shows the ID %s", c.Value, first)
	}
	for range 5 {
		if got, again := affine(t, r, "backend="+c.Value); got != first || again != nil {
			t.Errorf("came to %s with a new cookie %v, want %s and none", got, again, first)
		}
	}
	// What was not made here is as good as none.
	for _, forged := range []string{"b1", c.Value[1:], c.Value + "AAAA", c.Value[:len(c.Value)-1], strings.Repeat("A", 5000), newSealer(affinityKey(2), "backend").seal("b1"), newSealer(affinityKey(1), "other").seal("b1"), newSealer(affinityKey(1), "backend").seal("nobody")} {
		if _, again := affine(t, r, "backend="+forged); again == nil {
			t.Errorf("the cookie %.60q was taken", forged)
		}
	}
	// A drain is for those who are pinned, too.
	r.pool.Drain(first)
	second, c2 := affine(t, r, "backend="+c.Value)
	if second == first || c2 == nil {
		t.Errorf("came to %s, which drains, with the cookie %v", second, c2)
	}
	r.pool.Resume(first)
	if got, _ := affine(t, r, "backend="+c2.Value); got != second {
		t.Errorf("re-pinned to %s, but came to %s", second, got)
	}
	r.pool.Remove(second)
	third, c3 := affine(t, r, "backend="+c2.Value)
	if third == second || c3 == nil {
		t.Errorf("came to %s, which is gone", third)
	}
	if got := r.pool.Status(); got[0].InFlight+got[1].InFlight != 0 {
		t.Errorf("status %+v", got)
	}
}

// A pinned backend that dies is tried once; whoever answers instead is pinned.
func TestDeadBackendIsRepinned(t *testing.T) {
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	conf := ProxyConfig{Affinity: &Affinity{Keys: [][]byte{affinityKey(1)}}}
	r := newRig(t, PoolConfig{}, conf, nil, deadAddr(t), new(seen))
	pinned := "backend=" + newSealer(affinityKey(1), "backend").seal("b0")
	got, c := affine(t, r, pinned)
	if got != "b1" || c == nil {
		t.Fatalf("came to %s, cookie %v", got, c)
	}
	if got, again := affine(t, r, "backend="+c.Value); got != "b1" || again != nil {
		t.Errorf("then came to %s, cookie %v", got, again)
	}
}

func TestAffinityKeysRotate(t *testing.T) {
	old := newAffinity(&Affinity{Keys: [][]byte{affinityKey(1)}})
	both := newAffinity(&Affinity{Keys: [][]byte{affinityKey(2), affinityKey(1)}, Secure: true})
	request := func(line string) *http.Request {
		line, _, _ = strings.Cut(line, ";")
		return &http.Request{Header: http.Header{"Cookie": {"x=y", line}}}
	}
	line := old.cookie(request(""), "b7")
	if strings.Contains(line, "Secure") || !strings.Contains(both.cookie(request(""), "b7"), "Secure") || !strings.Contains(old.cookie(&http.Request{TLS: new(tls.ConnectionState)}, "b7"), "Secure") {
		t.Error("Secure is set where it should not, or the other way round")
	}
	if id, current := both.pinned(request(line)); id != "b7" || current {
		t.Errorf("a cookie of the old key: %q, %v", id, current)
	}
	renewed := both.cookie(request(line), "b7")
	if id, current := both.pinned(request(renewed)); id != "b7" || !current {
		t.Errorf("a cookie of the new key: %q, %v", id, current)
	}
	if id, _ := old.pinned(request(renewed)); id != "" {
		t.Errorf("the old key opens the new one's cookie: %q", id)
	}
}

// A client with a cookie of an old key stays where it is and gets a new one.
func TestOldCookieIsRenewed(t *testing.T) {
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	r := newRig(t, PoolConfig{}, ProxyConfig{Affinity: &Affinity{Keys: [][]byte{affinityKey(2), affinityKey(1)}}}, nil, new(seen), new(seen))
	for range 3 {
		got, c := affine(t, r, "backend="+newSealer(affinityKey(1), "backend").seal("b1"))
		if got != "b1" || c == nil {
			t.Fatalf("came to %s with the cookie %v", got, c)
		}
		if id, ok := newSealer(affinityKey(2), "backend").open(c.Value); !ok || id != "b1" {
			t.Errorf("the new cookie names %q, made with the new key: %v", id, ok)
		}
	}
}

// FuzzAffinityOpen: a value is opened only if seal makes it of what is found.
func FuzzAffinityOpen(f *testing.F) {
	s := newSealer(affinityKey(3), "backend")
	for _, id := range []string{"", "b0", "10.0.0.5:8080", strings.Repeat("x", maxIDLength)} {
		f.Add(s.seal(id), id)
	}
	f.Add("AAAA", "a\nb")
	f.Fuzz(func(t *testing.T, value, id string) {
		if got, ok := s.open(value); ok && s.seal(got) != value {
			t.Fatalf("%q opens as %q, which is sealed as %q", value, got, s.seal(got))
		}
		if len(id) <= maxIDLength {
			if got, ok := s.open(s.seal(id)); !ok || got != id {
				t.Fatalf("%q comes back as %q, %v", id, got, ok)
			}
		}
	})
}
