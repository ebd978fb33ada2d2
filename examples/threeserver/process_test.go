package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
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
)

// binary is the program under test, built once by TestMain.
var binary string

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "threeserver-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "threeserver")
	build := exec.Command("go", append(append([]string{"build"}, raceFlag...), "-o", binary, ".")...)
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building the example:", err)
		return 1
	}
	return leaktest.Run(m)
}

// process is one running copy of the program.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	tmp    string // its TMPDIR
	mu     sync.Mutex
	out    bytes.Buffer
	ready  chan struct{} // closed when the map has been printed
	exited chan struct{}
	err    error // of Wait
}

// start runs the program and waits until it serves. The database gets more time
// than it should need, as the machine may be busy with other things.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	p := launch(t, nil, append(args, "-db-wait", "1m")...)
	select {
	case <-p.ready:
	case <-p.exited:
		t.Fatalf("exited before it served: %v\n%s", p.err, p.output())
	case <-time.After(90 * time.Second):
		t.Fatalf("does not serve after 90 s:\n%s", p.output())
	}
	return p
}

// launch runs the program without waiting. Its environment is ours, with a
// temp folder of its own and what env adds.
func launch(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	tmp, err := os.MkdirTemp("", "p3-") // short: socket paths have a limit
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t: t, tmp: tmp, ready: make(chan struct{}), exited: make(chan struct{})}
	p.cmd = exec.Command(binary, args...)
	p.cmd.Env = append(append(os.Environ(), "TMPDIR="+tmp), env...)
	r, w := io.Pipe()
	p.cmd.Stdout, p.cmd.Stderr = w, w
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	scanned := make(chan struct{})
	go func() {
		defer close(scanned)
		seen := false
		for lines := bufio.NewScanner(r); lines.Scan(); {
			p.mu.Lock()
			fmt.Fprintln(&p.out, lines.Text())
			p.mu.Unlock()
			if !seen && strings.Contains(lines.Text(), "Ctrl-C") {
				seen = true
				close(p.ready)
			}
		}
	}()
	go func() {
		p.err = p.cmd.Wait()
		w.Close()
		<-scanned
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.exited
		os.RemoveAll(tmp)
		if t.Failed() {
			t.Logf("output of threeserver %s:\n%s", strings.Join(args, " "), p.output())
		}
	})
	return p
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// wait returns the exit status.
func (p *process) wait(patience time.Duration) int {
	p.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(patience):
		p.t.Fatalf("still running after %v:\n%s", patience, p.output())
	}
	if exit, ok := errors.AsType[*exec.ExitError](p.err); ok {
		return exit.ExitCode()
	}
	if p.err != nil {
		p.t.Fatal(p.err)
	}
	return 0
}

// interrupt is Ctrl-C.
func (p *process) interrupt() { p.cmd.Process.Signal(syscall.SIGINT) }

// kill is kill -9.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.exited
}

// printed returns the first group of a pattern in the printed map.
func (p *process) printed(pattern string) string {
	p.t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(p.output())
	if m == nil {
		p.t.Fatalf("nothing printed matches %s:\n%s", pattern, p.output())
	}
	return m[1]
}

// caPool reads the CA file that the map names.
func (p *process) caPool() *x509.CertPool {
	p.t.Helper()
	pem, err := os.ReadFile(p.printed(`CA to trust\s+(\S+)`))
	if err != nil {
		p.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		p.t.Fatal("no certificate in the CA file")
	}
	return pool
}

// client returns an HTTPS client that trusts the printed CA and shows certs.
func (p *process) client(certs ...tls.Certificate) *http.Client {
	tr := &http.Transport{
		TLSClientConfig:     &tls.Config{RootCAs: p.caPool(), Certificates: certs},
		MaxIdleConnsPerHost: 16,
		ForceAttemptHTTP2:   true,
	}
	p.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// http1Client is client without HTTP/2.
func (p *process) http1Client(certs ...tls.Certificate) *http.Client {
	c := p.client(certs...)
	c.Transport.(*http.Transport).ForceAttemptHTTP2 = false
	return c
}

// demoCert loads the client certificate that the third printed curl line shows.
func (p *process) demoCert() tls.Certificate {
	p.t.Helper()
	cert, err := tls.LoadX509KeyPair(p.printed(`--cert (\S+)`), p.printed(`--key (\S+)`))
	if err != nil {
		p.t.Fatal(err)
	}
	return cert
}

// addresses are free ports, below the kernel's ephemeral range so that no
// outgoing connection takes one between the look and the use.
type addresses struct{ https, http, web1, web2, admin string }

func freeAddresses(t *testing.T) addresses {
	t.Helper()
	ports := make([]string, 0, 5)
	for port := 20000 + os.Getpid()%5000; len(ports) < cap(ports); port++ {
		if port > 32000 {
			t.Fatal("no free ports")
		}
		free := true
		for _, host := range []string{"127.0.0.1", "127.0.0.2", "127.0.0.3"} {
			ln, err := net.Listen("tcp", fmt.Sprintf("%s:%d", host, port))
			if err != nil {
				free = false
				break
			}
			ln.Close()
		}
		if free {
			ports = append(ports, fmt.Sprint(port))
		}
	}
	return addresses{"127.0.0.1:" + ports[0], "127.0.0.1:" + ports[1], "127.0.0.2:" + ports[2], "127.0.0.3:" + ports[3], "127.0.0.1:" + ports[4]}
}

func (a addresses) flags(more ...string) []string {
	return append([]string{"-https", a.https, "-http", a.http, "-web1", a.web1, "-web2", a.web2, "-admin", a.admin}, more...)
}

// get fetches a URL and returns the status, the header and the body.
func get(t *testing.T, c *http.Client, url string) (int, http.Header, string) {
	t.Helper()
	res, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	return read(t, res)
}

func read(t *testing.T, res *http.Response) (int, http.Header, string) {
	t.Helper()
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, res.Header, string(body)
}

// eventually polls until f returns nil, for at most patience.
func eventually(t *testing.T, patience time.Duration, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("still not after %v: %v", patience, err)
		}
	}
}

// need skips the test when a program it drives is missing, or fails it when
// nothing may be skipped.
func need(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err == nil {
		return
	}
	if os.Getenv("PALISADE_REQUIRE_ALL") == "1" {
		t.Fatalf("%s is not on PATH and nothing may be skipped", program)
	}
	t.Skipf("%s is not on PATH", program)
}
