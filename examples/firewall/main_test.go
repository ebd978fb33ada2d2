package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/palisade-go/palisade/internal/leaktest"
)

func TestMain(m *testing.M) {
	if os.Getenv("FIREWALL_TEST_MAIN") != "" {
		main()
	}
	leaktest.Main(m)
}

func once(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(t.Context(), nil, args, &out, &errs)
	return status, out.String(), errs.String()
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCheck(t *testing.T) {
	if status, out, errs := once(t, "-policy", "policy.fw", "-check"); status != 0 || out != "policy.fw: 2 sets, 4 rules, 2 size limits, 4 limits, 1 escalations\n" {
		t.Errorf("the sample: status %d, %s%s", status, out, errs)
	}
	bad := filepath.Join(t.TempDir(), "bad.fw")
	write(t, bad, "drop x if path x\ndeny y\n")
	if status, _, errs := once(t, "-policy", bad, "-check"); status != 1 || !strings.Contains(errs, "line 1, column 11") || !strings.Contains(errs, "line 2, column 1") {
		t.Errorf("a bad one: status %d, %s", status, errs)
	}
}

// TestFlags: exit status 2, one line, and it names what is wrong.
func TestFlags(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{nil, "no -policy"},
		{[]string{"x"}, `"x"`},
		{[]string{"-nonsense"}, "nonsense"},
		{[]string{"-backend", "ftp://x"}, "ftp://x"},
		{[]string{"-backend", "http://h/#x"}, "http://h/#x"},
		{[]string{"-backend", "http://x", "-dir", "."}, "one of them"},
		{[]string{"-trusted", "x"}, `"x"`},
		{[]string{"-trusted", "10.0.0.1/8"}, "10.0.0.1/8"},
		{[]string{"-check", "-explain", "GET http://h/ from 192.0.2.1"}, "one of them"},
		{[]string{"-explain", ""}, "-explain"},
		{[]string{"-explain", "GET /x from 192.0.2.1"}, `URL "/x"`},
		{[]string{"-explain", "GET http://h/ from x"}, `client "x"`},
		{[]string{"-explain", "GET http://h/ to 192.0.2.1"}, "want one such as"},
		{[]string{"-listen", ""}, "want host:port"},
		{[]string{"-listen", "127.0.0.1"}, "want host:port"},
		{[]string{"-listen", "127.0.0.1:65536"}, "want host:port"},
		{[]string{"-dir", "/nowhere"}, "/nowhere"},
		{[]string{"-dir", "main.go"}, "main.go"},
	} {
		args := c.args
		if c.want != "no -policy" {
			args = append([]string{"-policy", "policy.fw"}, args...)
		}
		status, out, errs := once(t, args...)
		if status != 2 || out != "" || strings.Count(errs, "\n") != 1 || !strings.HasPrefix(errs, "firewall: ") || !strings.Contains(errs, c.want) {
			t.Errorf("%q: status %d, %q%q, want one line with %s", args, status, out, errs, c.want)
		}
	}
	if status, out, errs := once(t, "-h"); status != 0 || !strings.Contains(out, "-policy") || errs != "" {
		t.Errorf("help: status %d, %s%s", status, out, errs)
	}
}

// TestStateIsTried: bans that cannot be kept are an error before there are any.
func TestStateIsTried(t *testing.T) {
	for _, state := range []string{"/nowhere/bans.json", t.TempDir()} {
		if status, out, errs := once(t, "-policy", "policy.fw", "-listen", "127.0.0.1:0", "-state", state); status != 1 || out != "" || !strings.Contains(errs, state) {
			t.Errorf("%s: status %d, %q%q", state, status, out, errs)
		}
	}
}

func TestExplain(t *testing.T) {
	status, out, errs := once(t, "-policy", "policy.fw", "-explain", "GET http://host/x/../-/ from 192.0.2.1")
	for _, want := range []string{
		"accept depth: accept by default, undecided", "request depth: reject by rule inner", "drop bad if source @bad [no]: no",
		"path-prefix /- [unknown] and not source @ours [no]: unknown",
	} {
		if status != 0 || !strings.Contains(out, want) {
			t.Errorf("status %d, want %s in\n%s%s", status, want, out, errs)
		}
	}
}

// lines takes what is written, line by line; it has room for all that a test
// makes the program write.
type lines chan string

func (l lines) Write(b []byte) (int, error) {
	for line := range strings.Lines(string(b)) {
		l <- line
	}
	return len(b), nil
}

// server is a run of the program that serves.
type server struct {
	base string
	log  lines
}

// start runs the program until the end of the test, and then wants status 0.
func start(t *testing.T, reload <-chan os.Signal, args ...string) *server {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	s, out, done := &server{log: make(lines, 1000)}, make(lines, 1000), make(chan int, 1)
	go func() {
		done <- run(ctx, reload, append([]string{"-listen", "127.0.0.1:0"}, args...), out, s.log)
	}()
	select {
	case line := <-out:
		s.base = strings.TrimSpace(strings.TrimPrefix(line, "listening on "))
	case status := <-done:
		t.Fatalf("it does not listen: status %d", status)
	}
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		stop()
		if status := <-done; status != 0 {
			t.Errorf("status %d", status)
		}
	})
	return s
}

// logged reads the log until a line has the text.
func (s *server) logged(t *testing.T, text string) {
	t.Helper()
	tooLate := time.After(10 * time.Second)
	for {
		select {
		case line := <-s.log:
			if strings.Contains(line, text) {
				return
			}
		case <-tooLate:
			t.Fatalf("%s was not logged", text)
		}
	}
}

func (s *server) get(t *testing.T, path string, header ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", s.base+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(header) > 0 {
		r.Header.Set(header[0], header[1])
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

func TestReload(t *testing.T) {
	dir := t.TempDir()
	policy, list := filepath.Join(dir, "policy.fw"), filepath.Join(dir, "bad.txt")
	write(t, policy, "set bad file bad.txt\ndrop bad if source @bad\ndefault accept")
	write(t, list, "192.0.2.0/24\n")
	reload := make(chan os.Signal)
	s := start(t, reload, "-policy", policy, "-trusted", "127.0.0.1/32", "-h2c")
	status := func(client string) int {
		code, _ := s.get(t, "/", "X-Forwarded-For", client)
		return code
	}
	if _, body := s.get(t, "/", "X-Forwarded-For", "203.0.113.9"); body != "Accepted. You are 203.0.113.9.\n" {
		t.Errorf("page %q", body)
	}
	if code := status("203.0.113.7"); code != 200 {
		t.Errorf("before: status %d", code)
	}
	write(t, list, "203.0.113.7\n")
	reload <- syscall.SIGHUP
	s.logged(t, "generation=2")
	if code := status("203.0.113.9"); code != 200 {
		t.Errorf("after: status %d", code)
	}
	write(t, policy, "nonsense\nmore")
	reload <- syscall.SIGHUP
	s.logged(t, "line 1, column 1")
	s.logged(t, "line 2, column 1")
	if code := status("203.0.113.9"); code != 200 {
		t.Errorf("after a bad policy: status %d", code)
	}
	if code := status("203.0.113.7"); code != 403 {
		t.Errorf("after the list has changed: status %d", code)
	}
	s.logged(t, "id=bad client=203.0.113.7 generation=2")
}

func TestBackendAndState(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s for %s on %s", r.URL.Path, r.Header.Get("X-Forwarded-For"), r.Host)
	}))
	defer backend.Close()
	state := filepath.Join(t.TempDir(), "bans.json")
	write(t, state, `{"bans":[{"prefix":"203.0.113.0/24","reason":"x","until":"2200-01-01T00:00:00Z"}]}`)
	t.Run("serve", func(t *testing.T) {
		s := start(t, nil, "-policy", "policy.fw", "-trusted", "127.0.0.1/32", "-backend", backend.URL, "-state", state)
		if _, body := s.get(t, "/a", "X-Forwarded-For", "9.9.9.9, 192.0.2.9"); body != "/a for 192.0.2.9 on "+strings.TrimPrefix(s.base, "http://") {
			t.Errorf("backend got %q", body)
		}
		if code, _ := s.get(t, "/", "X-Forwarded-For", "203.0.113.1"); code != 403 {
			t.Errorf("status %d, want 403", code)
		}
		s.logged(t, "reason=ban")
	})
	text, err := os.ReadFile(state)
	if err != nil || !strings.Contains(string(text), "203.0.113.0/24") || !strings.Contains(string(text), "2200-01-01") {
		t.Errorf("saved %s, %v", text, err)
	}
	write(t, state, "{")
	if status, _, errs := once(t, "-policy", "policy.fw", "-state", state, "-check"); status != 1 || !strings.Contains(errs, "bans") {
		t.Errorf("a broken state: status %d, %s", status, errs)
	}
}

func TestDir(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "x.txt"), "hello")
	s := start(t, nil, "-policy", "policy.fw", "-dir", dir)
	if code, body := s.get(t, "/x.txt"); code != 200 || body != "hello" {
		t.Errorf("status %d, %q", code, body)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _ := s.get(t, "/pipe"); code != 404 {
		t.Errorf("a pipe: status %d", code)
	}
}

// TestNobodyReadsTheLog: the program lives on, and saves its bans at the end.
func TestNobodyReadsTheLog(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr, state := ln.Addr().String(), filepath.Join(t.TempDir(), "bans.json")
	ln.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	cmd := exec.Command(os.Args[0], "-policy", "policy.fw", "-listen", addr, "-state", state)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), "FIREWALL_TEST_MAIN=1"), w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(end) {
			t.Error(err)
			break
		}
	}
	os.Remove(state) // which was tried
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ends with %v", err)
	}
	if _, err := os.Stat(state); err != nil {
		t.Error(err)
	}
}

// TestEscalation offends from outside until a ban closes the door, which the next
// run still knows.
func TestEscalation(t *testing.T) {
	dir := t.TempDir()
	policy, state := filepath.Join(dir, "policy.fw"), filepath.Join(dir, "bans.json")
	write(t, policy, `
		reject inner if path-prefix /-/
		size all body 100
		limit logins window 1m burst 2 announce if path /login
		escalate scan offences 5 window 1m ban 1h
		default accept`)
	t.Run("offend", func(t *testing.T) {
		s := start(t, nil, "-policy", policy, "-state", state)
		res, err := http.Post(s.base+"/", "text/plain", struct{ io.Reader }{strings.NewReader(strings.Repeat("x", 1000))})
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		for i, c := range []struct {
			path string
			want int
		}{{"/login", 200}, {"/login", 200}, {"/login", 429}, {"/login", 429}, {"/-/a", 403}, {"/x/../-/b", 403}, {"/", 200}} {
			if code, _ := s.get(t, c.path); code != c.want {
				t.Errorf("request %d, %s: status %d, want %d", i, c.path, code, c.want)
			}
		}
		// The fifth closes the connection under its own answer.
		if res, err := http.Get(s.base + "/-/c"); err == nil {
			res.Body.Close()
		}
		s.logged(t, "reason=escalation id=scan client=127.0.0.1")
		if res, err := http.Get(s.base + "/"); err == nil {
			res.Body.Close()
			t.Errorf("a banned client gets status %d", res.StatusCode)
		}
		s.logged(t, "depth=accept verdict=drop mode=enforce reason=ban")
	})
	t.Run("again", func(t *testing.T) {
		s := start(t, nil, "-policy", policy, "-state", state)
		if res, err := http.Get(s.base + "/"); err == nil {
			res.Body.Close()
			t.Errorf("the next run lets the banned client in: status %d", res.StatusCode)
		}
	})
}
