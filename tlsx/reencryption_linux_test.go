package tlsx

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/palisade-go/palisade/internal/testcert"
)

// proxyChild is "folder|plain backend|TLS backend" for the process that is the
// proxy of BenchmarkReencryption.
const proxyChild = "PALISADE_TEST_TLSX_PROXY"

// TestProxyChild is that process; by itself it tests that it gives its addresses.
func TestProxyChild(t *testing.T) {
	conf := os.Getenv(proxyChild)
	if conf == "" {
		plain, _ := newProxy(t, nil, "127.0.0.1:1")
		if !strings.HasPrefix(plain, "127.0.0.1:") {
			t.Errorf("address %q", plain)
		}
		return
	}
	parts := strings.Split(conf, "|")
	cert, err1 := Files(filepath.Join(parts[0], "proxy.pem"), filepath.Join(parts[0], "proxy.key"), nil)
	trust, err2 := TrustFile(filepath.Join(parts[0], "ca.pem"), nil)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	mutual, err := BackendTLS(Backend{Roots: trust, Cert: cert, Peer: PeerMatcher{URIs: webURI}, ServerName: "web.test"})
	if err != nil {
		t.Fatal(err)
	}
	plain, _ := newProxy(t, nil, parts[1])
	secure, dials := newProxy(t, mutual, parts[2])
	fmt.Printf("proxies %s %s\n", plain, secure)
	// Each line of input is a question for what was used so far.
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			t.Fatal(err)
		}
		fmt.Printf("used %d %d\n", u.Utime.Nano()+u.Stime.Nano(), dials.Load())
	}
}

// newProxy serves a proxy to one backend, over plaintext without a
// configuration, and counts the connections it makes.
func newProxy(t *testing.T, conf *tls.Config, backend string) (addr string, dials *atomic.Int64) {
	t.Helper()
	dials = new(atomic.Int64)
	target := &url.URL{Scheme: "http", Host: backend}
	if conf != nil {
		target.Scheme = "https"
	}
	tr := &http.Transport{TLSClientConfig: conf, MaxIdleConnsPerHost: 100, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials.Add(1)
		return new(net.Dialer).DialContext(ctx, network, addr)
	}}
	t.Cleanup(tr.CloseIdleConnections)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, ln, &httputil.ReverseProxy{Transport: tr, Rewrite: func(pr *httputil.ProxyRequest) {
		pr.SetURL(target)
		Forward{}.Rewrite(pr)
	}})
	return ln.Addr().String(), dials
}

// BenchmarkReencryption compares, interleaved, the processor time that a proxy
// needs for a request of 1 KB to a backend in the clear and over mutual TLS. The
// proxy is a process of its own, so that neither clients nor backends count.
func BenchmarkReencryption(b *testing.B) {
	ca := testcert.NewCA(b)
	dir := b.TempDir()
	chain, key := testcert.EncodePEM(b, ca.Issue(testcert.Leaf{CommonName: "proxy"}))
	for name, data := range map[string][]byte{"ca.pem": ca.PEM(), "proxy.pem": chain, "proxy.key": key} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			b.Fatal(err)
		}
	}
	roots, err := NewRoots(ca.Cert)
	if err != nil {
		b.Fatal(err)
	}
	term, err := New(Config{
		Certs:    []CertSource{static(ca.Issue(testcert.Leaf{Names: []string{"web.test"}, URIs: webURI}))},
		Policies: []Policy{{Client: &ClientAuth{Mode: Required, Roots: roots}}},
	})
	if err != nil {
		b.Fatal(err)
	}
	body := strings.Repeat("x", 1024)
	answer := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) })
	var lns [2]net.Listener
	for i := range lns {
		if lns[i], err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			b.Fatal(err)
		}
	}
	for _, ln := range []net.Listener{lns[0], term.Listener(lns[1])} {
		srv := &http.Server{Handler: answer}
		go srv.Serve(ln)
		defer srv.Close()
	}
	child := startProxy(b, dir+"|"+lns[0].Addr().String()+"|"+lns[1].Addr().String())
	tr := &http.Transport{MaxIdleConnsPerHost: 100}
	defer tr.CloseIdleConnections()
	const batch = 400
	cost := func(addr string) time.Duration {
		before, _ := child.used(b)
		requests(b, &http.Client{Transport: tr}, "http://"+addr+"/", batch)
		after, _ := child.used(b)
		return (after - before) / batch
	}
	cost(child.plain)
	cost(child.secure)
	_, warm := child.used(b)
	var plains, secures, ratios []float64
	for b.Loop() {
		x, y := float64(cost(child.plain))/1e3, float64(cost(child.secure))/1e3
		plains, secures, ratios = append(plains, x), append(secures, y), append(ratios, y/x)
	}
	_, dials := child.used(b)
	b.ReportMetric(median(plains), "plain-µs")
	b.ReportMetric(median(secures), "mutual-µs")
	b.ReportMetric(median(ratios), "of-plain")
	b.ReportMetric(100-100*float64(dials-warm)/float64(batch*len(plains)), "reused-%")
}

// requests makes some of them over four connections.
func requests(b *testing.B, c *http.Client, target string, n int) {
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range n / 4 {
				res, err := c.Get(target)
				if err != nil {
					b.Error(err)
					return
				}
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
				if res.StatusCode != http.StatusOK {
					b.Errorf("status %d", res.StatusCode)
					return
				}
			}
		})
	}
	wg.Wait()
}

// proxyProcess is a running TestProxyChild.
type proxyProcess struct {
	plain, secure string
	in            io.Writer
	out           *bufio.Scanner
}

func startProxy(b *testing.B, conf string) *proxyProcess {
	b.Helper()
	self, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestProxyChild$")
	cmd.Env = append(os.Environ(), proxyChild+"="+conf)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	p := &proxyProcess{in: in, out: bufio.NewScanner(out)}
	if !p.out.Scan() {
		b.Fatal("the proxy said nothing")
	}
	if _, err := fmt.Sscanf(p.out.Text(), "proxies %s %s", &p.plain, &p.secure); err != nil {
		b.Fatalf("%q: %v", p.out.Text(), err)
	}
	return p
}

// used is the processor time of the proxy so far, and its connections over TLS.
func (p *proxyProcess) used(b *testing.B) (cpu time.Duration, dials int64) {
	b.Helper()
	if _, err := io.WriteString(p.in, "\n"); err != nil || !p.out.Scan() {
		b.Fatalf("the proxy is gone: %v", err)
	}
	if _, err := fmt.Sscanf(p.out.Text(), "used %d %d", &cpu, &dials); err != nil {
		b.Fatalf("%q: %v", p.out.Text(), err)
	}
	return cpu, dials
}
