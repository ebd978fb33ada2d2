package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestFronts sends requests through every front, alone and with the middlewares.
func TestFronts(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Forwarded-For") == "" {
			t.Error("a request came without X-Forwarded-For")
		}
		io.WriteString(w, "hello")
	}))
	defer backend.Close()
	for _, proxy := range []string{"palisade", "httputil"} {
		for _, front := range []string{"palisade", "nethttp"} {
			h, err := newProxy(proxy, backend.URL)
			if err != nil {
				t.Fatal(err)
			}
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			go serve(front, ln, nil, requestID(accessCheck(statusCount(h))))
			res, err := http.Get("http://" + ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			if string(body) != "hello" || err != nil || res.Header.Get("X-Request-Id") == "" {
				t.Errorf("%s behind %s: %q, %v, %v", proxy, front, body, res.Header, err)
			}
			ln.Close()
		}
	}
	if _, err := newProxy("x", ""); err == nil {
		t.Error("there is no proxy x")
	}
	if serve("x", nil, nil, nil) == nil {
		t.Error("there is no front x")
	}
}

func TestStatusCount(t *testing.T) {
	for want, h := range map[int]http.HandlerFunc{
		200: func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "x") },
		418: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(103); w.WriteHeader(418) },
	} {
		w := &statusWriter{ResponseWriter: httptest.NewRecorder()}
		h(w, nil)
		if w.status != want {
			t.Errorf("the status is %d, want %d", w.status, want)
		}
	}
}
