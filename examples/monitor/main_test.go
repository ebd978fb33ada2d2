package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/palisade-go/palisade/internal/leaktest"
	"github.com/palisade-go/palisade/qps"
)

func TestMain(m *testing.M) {
	if os.Getenv("MONITOR_TEST_MAIN") != "" {
		main()
		os.Exit(0)
	}
	leaktest.Main(m)
}

// output is the program's log, read while it is written.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

type monitor struct {
	app, admin string
	stop       func() error
}

// start runs the program on ports of its own.
func start(t *testing.T, args ...string) monitor {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var out output
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, append([]string{"-listen", "127.0.0.1:0", "-admin", "127.0.0.1:0"}, args...), &out)
	}()
	stop := sync.OnceValue(func() error {
		cancel()
		return <-ended
	})
	t.Cleanup(func() { stop() })
	line := regexp.MustCompile(`app=(\S+) admin=(\S+)`)
	for range 3000 {
		if m := line.FindStringSubmatch(out.String()); m != nil {
			return monitor{app: m[1], admin: m[2], stop: stop}
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("the program does not say where it listens: %s", out.String())
	return monitor{}
}

func fetch(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func snapshot(t *testing.T, m monitor) qps.Snapshot {
	t.Helper()
	var s qps.Snapshot
	if err := json.Unmarshal([]byte(fetch(t, m.admin+"/api/v1/snapshot")), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

func route(s qps.Snapshot, name string) qps.RouteSnapshot {
	for _, r := range s.Routes {
		if r.Route == name {
			return r
		}
	}
	return qps.RouteSnapshot{}
}

// eventually waits for what another goroutine does next.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 3000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("not in time: %s", what)
}

func TestMonitor(t *testing.T) {
	defer http.DefaultClient.CloseIdleConnections()
	state := filepath.Join(t.TempDir(), "state")
	first := start(t, "-state", state)
	for range 5 {
		fetch(t, first.app+"/fast")
	}
	fetch(t, first.app+"/slow")
	fetch(t, first.app+"/fail")
	if resp, err := http.Get(first.app + "/fail?panic=1"); err == nil {
		resp.Body.Close()
		t.Error("a panic was answered")
	}
	file := fetch(t, first.app+"/file")
	ctx, leave := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "GET", first.app+"/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil || line != "data: 1\n" {
		t.Errorf("streamed %q, %v", line, err)
	}
	resp.Body.Close()
	leave()

	eventually(t, "all requests recorded", func() bool {
		s := snapshot(t, first)
		return route(s, "GET /fast").Counts.Status2xx == 5 && route(s, "GET /fail").Counts.Status5xx == 1 && route(s, "GET /fail").Counts.Panic > 0 && // the client asks again
			route(s, "GET /file").BytesOut == uint64(len(file)) && route(s, "GET /stream").Requests() == 1
	})
	if p := route(snapshot(t, first), "GET /slow").Quantile(0.5); p < 99*time.Millisecond {
		t.Errorf("the slow route took %v", p)
	}

	second := start(t, "-peer", first.admin)
	fetch(t, second.app+"/fast")
	var fleet qps.FleetSnapshot
	eventually(t, "both servers in one snapshot", func() bool {
		if err := json.Unmarshal([]byte(fetch(t, second.admin+"/api/v1/fleet")), &fleet); err != nil {
			t.Fatal(err)
		}
		return route(fleet.Merged, "GET /fast").Requests() == 6
	})
	if page := fetch(t, second.admin+"/"); !strings.Contains(page, "<td>GET /fast</td>") || !strings.Contains(page, ">up</td>") || !strings.Contains(page, "/stream") {
		t.Errorf("page:\n%s", page)
	}
	if text := fetch(t, first.admin+"/metrics"); !strings.Contains(text, `route="GET /fast",method="GET",code="2xx"} 5`) {
		t.Errorf("metrics:\n%s", text)
	}
	if err := first.stop(); err != nil {
		t.Error(err)
	}
	eventually(t, "the loss of the first server", func() bool {
		page := fetch(t, second.admin+"/")
		return strings.Contains(page, ">lost<")
	})
	if err := second.stop(); err != nil {
		t.Error(err)
	}

	again := start(t, "-state", state)
	if n := route(snapshot(t, again), "GET /fast").Requests(); n != 5 {
		t.Errorf("after a restart there are %d requests, want 5", n)
	}
	if err := again.stop(); err != nil {
		t.Error(err)
	}
}

func TestFlags(t *testing.T) {
	c, err := parse([]string{"-listen", "a:1", "-admin", "b:2", "-peer", "http://c:3", "-peer", "https://d/x", "-state", "f"}, io.Discard)
	want := config{listen: "a:1", admin: "b:2", state: "f", peers: []qps.Peer{{Name: "c:3", URL: "http://c:3/api/v1/snapshot"}, {Name: "d", URL: "https://d/x"}}}
	if err != nil || fmt.Sprint(c) != fmt.Sprint(want) {
		t.Errorf("%+v, %v; want %+v", c, err, want)
	}
	for _, args := range [][]string{{"-peer", "http://\x00"}, {"extra"}, {"-none"}} {
		var out strings.Builder
		err := run(t.Context(), args, &out)
		if _, ok := errors.AsType[usageError](err); !ok || out.Len() > 0 {
			t.Errorf("%q: %v, %q; want a mistake of the command line and nothing printed yet", args, err, out.String())
		}
	}
	for _, args := range [][]string{{"-listen", "nowhere"}, {"-listen", "127.0.0.1:0", "-admin", "nowhere"}, {"-listen", "127.0.0.1:0", "-admin", "127.0.0.1:0", "-peer", "ftp://x/"}} {
		if err := run(t.Context(), args, io.Discard); err == nil {
			t.Errorf("%q ran", args)
		}
	}
	var help strings.Builder
	if err := run(t.Context(), []string{"-h"}, &help); !errors.Is(err, flag.ErrHelp) || !strings.Contains(help.String(), "-peer") {
		t.Errorf("%v, %q", err, help.String())
	}
}

// TestNobodyReadsTheLog: the program lives on, and ends as it should.
func TestNobodyReadsTheLog(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	cmd := exec.Command(os.Args[0], "-listen", addr, "-admin", "127.0.0.1:0")
	cmd.Env, cmd.Stderr = append(os.Environ(), "MONITOR_TEST_MAIN=1"), w
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		res, err := http.Get("http://" + addr + "/fast")
		if err == nil {
			res.Body.Close()
			break
		}
		if time.Now().After(end) {
			t.Error(err)
			break
		}
	}
	http.DefaultClient.CloseIdleConnections()
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ends with %v", err)
	}
}
