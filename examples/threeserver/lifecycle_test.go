package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		{"-role", "database"},
		{"-role", "web"},
		{"-role", "balancer"},
		{"-db", "oracle"},
		{"-db-replica", "u@tcp(127.0.0.1:1)/x"},
		{"-admin", "0.0.0.0:9090"},
		{"-https", "nowhere"},
		{"-https", ""},
		{"-https", "127.0.0.1:0"},
		{"-http", "127.0.0.1:0"},
		{"-rate", "NaN"},
		{"-rate", "1e7"},
		{"-acme-email", "a@b.example"},
		{"-burst", "0"},
		{"-db-wait", "0s"},
		{"-nonsense"},
		{"extra"},
	} {
		p := launch(t, nil, args...)
		if status := p.wait(time.Minute); status != 2 {
			t.Errorf("%v: exit status %d, want 2", args, status)
		}
		if out := p.output(); strings.Count(out, "\n") != 1 || !strings.HasPrefix(out, "threeserver: ") {
			t.Errorf("%v: want one line, got:\n%s", args, out)
		}
		p.nothingLeft()
	}
}

// nothingLeft checks that an ended process left no file and no database.
func (p *process) nothingLeft() {
	p.t.Helper()
	left, err := os.ReadDir(p.tmp)
	if err != nil {
		p.t.Error(err)
	}
	for _, e := range left {
		p.t.Errorf("left behind in the temp folder: %s", e.Name())
	}
	for _, pid := range processesUsing(p.tmp) {
		p.t.Errorf("left behind: process %s", pid)
	}
}

// processesUsing lists processes with a word of their command line below dir.
func processesUsing(dir string) []string {
	var out []string
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if text, err := os.ReadFile(f); err == nil && strings.Contains(string(text), dir) {
			out = append(out, strings.ReplaceAll(string(text), "\x00", " "))
		}
	}
	return out
}

func TestDatabaseThatDoesNotComeUp(t *testing.T) {
	var p *process
	// It takes 10 s, and the start of the program. A busy machine, which may take a
	// while for that, is asked again.
	for try := 1; ; try++ {
		a := freeAddresses(t)
		began := time.Now()
		p = launch(t, nil, a.flags("-db-primary", "notes:secret@tcp(127.0.0.1:9)/notes")...)
		status := p.wait(time.Minute)
		took := time.Since(began)
		if status == 1 && took <= 12*time.Second {
			break
		}
		if status != 1 || try == 3 {
			t.Errorf("exit status %d after %v, want 1 within 10 s", status, took)
			break
		}
	}
	if out := p.output(); !strings.Contains(out, "threeserver: ") || !strings.Contains(out, "127.0.0.1:9") || strings.Contains(out, "secret") {
		t.Errorf("want an error that names the server and no password:\n%s", out)
	}
	p.nothingLeft()
}

func TestAddressInUse(t *testing.T) {
	a := freeAddresses(t)
	ln, err := net.Listen("tcp", a.https)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	p := launch(t, nil, a.flags("-db", "embedded")...)
	if status := p.wait(time.Minute); status != 1 || !strings.Contains(p.output(), "-https") {
		t.Errorf("exit status %d, want 1 and the flag's name:\n%s", status, p.output())
	}
	p.nothingLeft()
}

// TestNobodyReadsTheLog: as with "| head", and with "| tee log" when Ctrl-C ends tee
// first. What was started is stopped all the same.
func TestNobodyReadsTheLog(t *testing.T) {
	tmp, err := os.MkdirTemp("", "p3-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(tmp)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	a := freeAddresses(t)
	cmd := exec.Command(binary, a.flags("-db", "embedded")...)
	cmd.Env, cmd.Stdout, cmd.Stderr = append(os.Environ(), "TMPDIR="+tmp), w, w
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("tcp", a.admin); err == nil { // which is opened last
			c.Close()
			break
		}
		if len(exited) > 0 || time.Now().After(end) {
			t.Error("it does not serve")
			break
		}
	}
	cmd.Process.Signal(os.Interrupt)
	select {
	case err := <-exited:
		if err != nil {
			t.Errorf("it ends with %v", err)
		}
	case <-time.After(time.Minute):
		cmd.Process.Kill()
		t.Errorf("it does not end: %v", <-exited)
	}
	(&process{t: t, tmp: tmp}).nothingLeft()
}

// TestWithoutMariaDB hides mariadbd: the default must fall back, and say so.
func TestWithoutMariaDB(t *testing.T) {
	a := freeAddresses(t)
	p := launch(t, []string{"PATH=" + t.TempDir()}, a.flags()...)
	select {
	case <-p.ready:
	case <-p.exited:
	case <-time.After(time.Minute):
	}
	if !strings.Contains(p.output(), "embedded") {
		t.Fatalf("the map does not say which database it is:\n%s", p.output())
	}
	c := p.client()
	post(t, c, a, "no mariadbd here")
	if _, _, body := get(t, c, "https://"+a.https+"/api/notes"); !strings.Contains(body, "no mariadbd here") {
		t.Errorf("the note is not listed: %s", body)
	}
	p.interrupt()
	if status := p.wait(time.Minute); status != 0 {
		t.Errorf("exit status %d after Ctrl-C", status)
	}
	p.nothingLeft()
}

// TestInterruptUnderLoad stops the stack while requests are under way: those
// that had begun are answered whole.
func TestInterruptUnderLoad(t *testing.T) {
	a := freeAddresses(t)
	p := start(t, a.flags()...)
	const slow = 20
	begun, finished := new(sync.WaitGroup), new(sync.WaitGroup)
	begun.Add(slow)
	var good atomic.Int32
	release := make(chan struct{})
	for i := range slow {
		conf := p.client().Transport.(*http.Transport).TLSClientConfig.Clone()
		finished.Go(func() {
			conn, err := tls.Dial("tcp", a.https, conf)
			if err != nil {
				t.Error(err)
				begun.Done()
				return
			}
			defer conn.Close()
			body := fmt.Sprintf(`{"text":"slow %d"}`, i)
			fmt.Fprintf(conn, "POST /api/notes HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", a.https, len(body))
			// The interim answer proves that the request has reached the app.
			r := bufio.NewReader(conn)
			line, err := r.ReadString('\n')
			if err != nil || !strings.Contains(line, "100") {
				t.Errorf("no interim answer: %q, %v", line, err)
			}
			r.ReadString('\n')
			begun.Done()
			<-release
			io.WriteString(conn, body)
			res, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Errorf("a request under way was cut off: %v", err)
				return
			}
			defer res.Body.Close()
			if text, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusCreated {
				t.Errorf("status %d, %v: %s", res.StatusCode, err, text)
				return
			}
			good.Add(1)
		})
	}
	begun.Wait()
	p.interrupt()
	eventually(t, 30*time.Second, func() error { // the door is closed
		conn, err := net.DialTimeout("tcp", a.https, time.Second)
		if err == nil {
			conn.Close()
			return fmt.Errorf("still accepting")
		}
		return nil
	})
	close(release)
	finished.Wait()
	if good.Load() != slow {
		t.Errorf("%d of %d requests under way were answered", good.Load(), slow)
	}
	if status := p.wait(time.Minute); status != 0 {
		t.Errorf("exit status %d after Ctrl-C", status)
	}
	p.nothingLeft()
}

// TestRateLimit sends a burst of exactly one more than is allowed.
func TestRateLimit(t *testing.T) {
	a := freeAddresses(t)
	p := start(t, a.flags("-db", "embedded", "-rate", "0.1", "-burst", "30")...)
	c := p.client()
	for i := range 30 {
		if status, _, body := get(t, c, "https://"+a.https+"/healthz"); status != http.StatusOK {
			t.Fatalf("request %d: status %d %s", i+1, status, body)
		}
	}
	status, h, _ := get(t, c, "https://"+a.https+"/healthz")
	if status != http.StatusTooManyRequests || h.Get("Retry-After") == "" {
		t.Errorf("request 31: status %d, Retry-After %q", status, h.Get("Retry-After"))
	}
	// A client cannot get more by claiming to be another.
	req := newGet(t, "https://"+a.https+"/healthz")
	req.Header.Set("X-Forwarded-For", "203.0.113.9")
	req.Header.Set("Forwarded", "for=203.0.113.9")
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if status, _, _ := read(t, res); status != http.StatusTooManyRequests {
		t.Errorf("with a forged X-Forwarded-For: status %d", status)
	}
}

// hammer sends GET requests until ctx ends, and counts what came back.
func hammer(ctx context.Context, c *http.Client, url string, workers int) (good, bad *atomic.Int64, last *atomic.Value, wait func()) {
	good, bad, last = new(atomic.Int64), new(atomic.Int64), new(atomic.Value)
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for ctx.Err() == nil {
				res, err := c.Get(url)
				if err != nil {
					bad.Add(1)
					last.Store(err.Error())
					continue
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode != http.StatusOK {
					bad.Add(1)
					last.Store(fmt.Sprintf("%s %v %s", res.Status, err, body))
					continue
				}
				good.Add(1)
			}
		})
	}
	return good, bad, last, wg.Wait
}
