package load

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestMain has more processors than threads that wait in a poller, each of which
// blocks one.
func TestMain(m *testing.M) {
	runtime.GOMAXPROCS(8)
	os.Exit(m.Run())
}

// backendAddr is where the backend of all tests serves. It ends with the process.
var backendAddr = sync.OnceValues(func() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	go ServeHTTP(ln.(*net.TCPListener))
	return ln.Addr().String(), nil
})

func startBackend(t *testing.T) string {
	t.Helper()
	addr, err := backendAddr()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// waitOps waits until so much was done.
func waitOps(t *testing.T, l *Load, n uint64) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); l.Ops() < n && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if err := l.Stop(); err != nil || l.Ops() < n {
		t.Errorf("%d operations, %v, want %d", l.Ops(), err, n)
	}
}

func TestClosed(t *testing.T) {
	addr := startBackend(t)
	for _, size := range []int{0, 1024, 64 << 10, 1 << 20} {
		waitOps(t, Client{Addr: addr, Size: size, Conns: 8}.Closed(), 50)
	}
}

// TestBackend asks it as net/http does, and several times in one write.
func TestBackend(t *testing.T) {
	addr := startBackend(t)
	for path, want := range map[string]int{"/10": 10, "/65536": 65536, "/": -1, "/x": -1, "/-1": -1} {
		res, err := http.Get("http://" + addr + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		if want < 0 {
			if res.StatusCode != http.StatusNotFound {
				t.Errorf("%s: status %d", path, res.StatusCode)
			}
		} else if !bytes.Equal(body, Body(want)) {
			t.Errorf("%s: %d bytes, want Body(%d)", path, len(body), want)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, strings.Repeat("GET /3 HTTP/1.1\r\nHost: x\r\n\r\n", 3)+"GET /2 HTTP/1.1\r\nConnection: close\r\n\r\n")
	all, err := io.ReadAll(conn)
	if n := bytes.Count(all, Body(3)); n != 3 || !bytes.HasSuffix(all, Body(2)) || err != nil {
		t.Errorf("%d of 3 responses and then %q, %v", n, all, err)
	}
}

// TestWrongBodies checks that a load fails for whatever is not the response.
func TestWrongBodies(t *testing.T) {
	good := string(Body(4))
	for name, answer := range map[string]string{
		"other body":   "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd",
		"other status": "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 4\r\n\r\n" + good,
		"other length": "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + good + "x",
		"no length":    "HTTP/1.1 200 OK\r\nDate: now\r\n\r\n" + good,
		"too much":     "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + good + "x",
		"end":          "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n" + good[:2],
	} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for {
				conn, err := ln.Accept()
				if err != nil {
					return
				}
				conn.Read(make([]byte, 1024))
				io.WriteString(conn, answer)
				conn.Close()
			}
		}()
		l := Client{Addr: ln.Addr().String(), Size: 4, Conns: 1}.Closed()
		l.all.Wait()
		if err := l.Stop(); err == nil {
			t.Errorf("%s: no error after %d responses", name, l.Ops())
		}
		ln.Close()
	}
}

// TestResponseSplit feeds responses cut at every place.
func TestResponseSplit(t *testing.T) {
	body := Body(40)
	text := append([]byte("HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length:  40\r\n\r\n"), body...)
	for cut := range len(text) + 1 {
		r := response{want: body}
		for range 2 {
			first, err := r.feed(text[:cut])
			if err != nil || first != (cut == len(text)) {
				t.Fatalf("cut at %d: %v, %v", cut, first, err)
			}
			if first {
				continue
			}
			if done, err := r.feed(text[cut:]); !done || err != nil {
				t.Fatalf("cut at %d: %v, %v", cut, done, err)
			}
		}
	}
}

// FuzzResponse feeds bytes in two parts: it must come to the same as in one.
func FuzzResponse(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"+string(Body(3))), 7)
	f.Add([]byte("HTTP/1.1 200 \r\n\r\n\r\n"), 16)
	f.Fuzz(func(t *testing.T, text []byte, cut int) {
		whole := response{want: Body(3)}
		done, err := whole.feed(text)
		if cut < 0 || cut > len(text) {
			return
		}
		parts := response{want: Body(3)}
		done2, err2 := parts.feed(text[:cut])
		if err2 == nil && !done2 {
			done2, err2 = parts.feed(text[cut:])
		} else if done2 && cut < len(text) {
			err2 = io.ErrShortBuffer
		}
		if (err == nil) != (err2 == nil) || err == nil && done != done2 {
			t.Errorf("%q: %v, %v in one, %v, %v cut at %d", text, done, err, done2, err2, cut)
		}
	})
}

func TestOpen(t *testing.T) {
	addr := startBackend(t)
	const rate = 2000
	begin := time.Now()
	h, err := Client{Addr: addr, Size: 100, Conns: 8}.Open(rate, 7, 100*time.Millisecond, 400*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < 450*time.Millisecond {
		t.Errorf("the schedule of 500 ms was over after %v", took)
	}
	want := uint64(0)
	for s := NewSchedule(rate, 7); ; {
		at := s.Next()
		if at >= 500*time.Millisecond {
			break
		}
		if at >= 100*time.Millisecond {
			want++
		}
	}
	if h.Count() != want || h.Quantile(0.5) <= 0 {
		t.Errorf("%d latencies with median %v, want %d", h.Count(), h.Quantile(0.5), want)
	}
}

// TestOpenCountsWaiting has a server that stands still for a while: every
// request that was due meanwhile must be counted with its wait.
func TestOpenCountsWaiting(t *testing.T) {
	const stall = 300 * time.Millisecond
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "10")
		w.Write(Body(10))
	})}
	first := true
	server.Handler = func(next http.Handler) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if first { // there is one connection, so one handler at a time
				first = false
				time.Sleep(stall)
			}
			next.ServeHTTP(w, r)
		}
	}(server.Handler)
	go server.Serve(ln)
	defer server.Close()
	h, err := Client{Addr: ln.Addr().String(), Size: 10, Conns: 1}.Open(500, 3, 0, stall)
	if err != nil {
		t.Fatal(err)
	}
	if m := h.Quantile(0.5); m < stall/4 {
		t.Errorf("the median is %v although the server stood still for %v", m, stall)
	}
}

func TestSchedule(t *testing.T) {
	a, b := NewSchedule(1000, 5), NewSchedule(1000, 5)
	var last time.Duration
	const n = 100_000
	for range n {
		at := a.Next()
		if at < last || at != b.Next() {
			t.Fatalf("a request is due at %v after %v", at, last)
		}
		last = at
	}
	if mean := last / n; mean < 990*time.Microsecond || mean > 1010*time.Microsecond {
		t.Errorf("a request each %v, want 1ms", mean)
	}
	if NewSchedule(1000, 6).Next() == NewSchedule(1000, 5).Next() {
		t.Error("two seeds give the same times")
	}
}

// selfSigned is a certificate with a P-256 key, and who trusts it.
func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"bench.example"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

func TestClosedTLS(t *testing.T) {
	cert, roots := selfSigned(t)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "10")
		w.Write(Body(10))
	})}
	go server.Serve(ln)
	defer server.Close()
	client := Client{Addr: ln.Addr().String(), Size: 10, Conns: 4}
	waitOps(t, client.ClosedTLS(&tls.Config{RootCAs: roots, ServerName: "bench.example"}), 20)
	l := client.ClosedTLS(&tls.Config{RootCAs: roots, ServerName: "bench.example", MaxVersion: tls.VersionTLS12})
	l.all.Wait()
	if l.Stop() == nil {
		t.Error("TLS 1.2 was accepted")
	}
}

func TestStream(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- ServeStream(ln) }()
	waitOps(t, Stream(ln.Addr().String(), 2), 5*StreamPeriod)
	ln.Close()
	<-ended
}

func TestIdle(t *testing.T) {
	client := Client{Addr: startBackend(t), Size: 100}
	conns, err := client.Idle(10)
	if err != nil || len(conns) != 10 {
		t.Fatalf("%d connections, %v", len(conns), err)
	}
	if err := StillOpen(conns); err != nil {
		t.Error(err)
	}
	fmt.Fprint(conns[3], "GET /1 HTTP/1.1\r\n\r\n")
	conns[3].SetReadDeadline(time.Now().Add(10 * time.Second))
	one := make([]byte, 1)
	if _, err := io.ReadFull(conns[3], one); err != nil {
		t.Fatal(err)
	}
	if err := StillOpen(conns); err == nil {
		t.Error("a connection with bytes in it counts as idle")
	}
	if err := StillOpen(conns[:3]); err != nil {
		t.Error(err)
	}
	conns[2].(*net.TCPConn).CloseRead()
	if err := StillOpen(conns[:3]); err == nil {
		t.Error("a connection that has ended counts as idle")
	}
	for _, c := range conns {
		c.Close()
	}
}
