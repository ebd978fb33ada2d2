package tlsx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/palisade-go/palisade/internal/testcert"
)

// program finds a foreign client or proxy, or skips the test.
func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath(filepath.Join("/usr/sbin", name))
	}
	if err != nil {
		if os.Getenv("PALISADE_REQUIRE_ALL") == "1" {
			t.Fatalf("%s is not installed and nothing may be skipped", name)
		}
		t.Skipf("%s is not installed", name)
	}
	return path
}

// foreign is a server for clients that are not ours: www.test is for everybody,
// members.test for clients with certificates, new.test for TLS 1.3.
type foreign struct {
	port                  string
	ca, cert, key, ticket string // files
	refused               chan error
}

func newForeign(t *testing.T) foreign {
	t.Helper()
	ca, clients := testcert.NewCA(t), testcert.NewCA(t)
	dir := t.TempDir()
	f := foreign{refused: make(chan error, 100), ticket: filepath.Join(dir, "ticket.pem")}
	chain, key := testcert.EncodePEM(t, clients.Issue(testcert.Leaf{CommonName: "alice"}))
	for name, data := range map[*string][]byte{&f.ca: ca.PEM(), &f.cert: chain, &f.key: key} {
		file, err := os.CreateTemp(dir, "*.pem")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.Write(data); err != nil {
			t.Fatal(err)
		}
		*name = file.Name()
		file.Close()
	}
	term := newTerminator(t, Config{
		Certs: []CertSource{static(ca.Issue(testcert.Leaf{Names: []string{"www.test", "members.test", "new.test"}}))},
		Policies: []Policy{
			{Names: []string{"www.test"}},
			{Names: []string{"members.test"}, Client: &ClientAuth{Mode: Required, Roots: rootsOf(t, clients)}},
			{Names: []string{"new.test"}, Profile: Modern},
		},
		OnReject: func(_ string, _ net.Addr, err error) { f.refused <- err },
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, f.port, _ = net.SplitHostPort(ln.Addr().String())
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who := "nobody"
		if id, ok := IdentityFrom(r.Context()); ok {
			who = id.CommonName
		}
		w.Header().Set("Connection", "close")
		fmt.Fprintf(w, "%s over %s resumed %v", who, r.Proto, r.TLS.DidResume)
	})
	serve(t, term.Listener(ln), term.RequireSNIMatch(Receive(PeerMatcher{}, handler)))
	return f
}

// run is a client that may fail.
func (f foreign) run(t *testing.T, stdin, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	// OpenSSL closes at the end of its input, so that stays open.
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if _, err := io.WriteString(in, stdin); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("%s %s: took too long:\n%s", name, args, out)
	}
	return string(out), err
}

func TestOpenSSL(t *testing.T) {
	openssl := program(t, "openssl")
	f := newForeign(t)
	get := func(name string, extra ...string) (string, error) {
		args := append([]string{"s_client", "-connect", "127.0.0.1:" + f.port, "-servername", name, "-verify_hostname", name, "-verify_return_error", "-CAfile", f.ca}, extra...)
		return f.run(t, "GET / HTTP/1.1\r\nHost: "+name+"\r\nConnection: close\r\n\r\n", openssl, args...)
	}
	for _, version := range []string{"-tls1_2", "-tls1_3"} {
		if out, err := get("www.test", version); err != nil || !strings.Contains(out, "nobody over HTTP/1.1") {
			t.Errorf("%s: %v\n%s", version, err, out)
		}
		withCert := []string{version, "-cert", f.cert, "-key", f.key, "-sess_out", f.ticket}
		if out, err := get("members.test", withCert...); err != nil || !strings.Contains(out, "alice over HTTP/1.1 resumed false") {
			t.Errorf("%s, with a certificate: %v\n%s", version, err, out)
		}
		if out, err := get("members.test", append(withCert, "-sess_in", f.ticket)...); err != nil || !strings.Contains(out, "alice over HTTP/1.1 resumed true") {
			t.Errorf("%s, with a ticket: %v\n%s", version, err, out)
		}
		if out, _ := get("members.test", version); strings.Contains(out, "over HTTP") {
			t.Errorf("%s: got in without a certificate:\n%s", version, out)
		}
	}
	if out, _ := get("new.test", "-tls1_2"); strings.Contains(out, "over HTTP") || !strings.Contains(out, "protocol version") {
		t.Errorf("TLS 1.2 under the modern profile:\n%s", out)
	}
	if out, _ := get("unknown.test"); !strings.Contains(out, "unrecognized name") {
		t.Errorf("a name that is not served:\n%s", out)
	} else if err := <-f.refused; !errors.Is(err, ErrUnknownName) {
		t.Errorf("refused with %v", err)
	}
	for _, old := range []string{"-tls1", "-tls1_1"} {
		if out, _ := get("www.test", old, "-cipher", "DEFAULT@SECLEVEL=0"); strings.Contains(out, "over HTTP") {
			t.Errorf("%s was served:\n%s", old, out)
		}
	}
}

func TestCurl(t *testing.T) {
	curl := program(t, "curl")
	f := newForeign(t)
	get := func(name string, extra ...string) (string, error) {
		args := append([]string{"-sS", "--noproxy", "*", "--cacert", f.ca, "--resolve", name + ":" + f.port + ":127.0.0.1", "-w", " status %{http_code}", "https://" + name + ":" + f.port + "/"}, extra...)
		return f.run(t, "", curl, args...)
	}
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"www.test", nil, "nobody over HTTP/2.0 resumed false status 200"},
		{"www.test", []string{"--http1.1", "--tls-max", "1.2"}, "nobody over HTTP/1.1 resumed false status 200"},
		{"members.test", []string{"--cert", f.cert, "--key", f.key}, "alice over HTTP/2.0 resumed false status 200"},
		{"www.test", []string{"-H", "Host: members.test"}, "misdirected request\n status 421"},
	} {
		if out, err := get(c.name, c.args...); err != nil || out != c.want {
			t.Errorf("%s %s: %q, %v, want %q", c.name, c.args, out, err, c.want)
		}
	}
	for name, args := range map[string][]string{"members.test": nil, "unknown.test": nil, "new.test": {"--tls-max", "1.2"}} {
		if out, err := get(name, args...); err == nil {
			t.Errorf("%s %s: %q, want an error", name, args, out)
		}
	}
}

// nodeClient makes two requests, the second with the ticket of the first.
const nodeClient = `
const https = require('https'), fs = require('fs');
const [port, name, ca, cert, key] = process.argv.slice(1);
const agent = new https.Agent({maxCachedSessions: 10});
const options = {port, host: '127.0.0.1', servername: name, agent, headers: {Host: name + ':' + port}, ca: fs.readFileSync(ca)};
if (cert) Object.assign(options, {cert: fs.readFileSync(cert), key: fs.readFileSync(key)});
const get = next => https.get(options, res => {
  let body = '';
  res.on('data', d => body += d).on('end', () => console.log(res.socket.getProtocol(), body));
  res.socket.on('close', next);
}).on('error', err => { console.log('failed', err.code); process.exit(1); });
get(() => get(() => process.exit(0)));
`

func TestNode(t *testing.T) {
	node := program(t, "node")
	f := newForeign(t)
	get := func(name string, extra ...string) string {
		args := append([]string{"-e", nodeClient, f.port, name, f.ca}, extra...)
		out, _ := f.run(t, "", node, args...)
		return out
	}
	for name, want := range map[string]string{
		"www.test": "TLSv1.3 nobody over HTTP/1.1 resumed false\nTLSv1.3 nobody over HTTP/1.1 resumed true\n",
		"new.test": "TLSv1.3 nobody over HTTP/1.1 resumed false\nTLSv1.3 nobody over HTTP/1.1 resumed true\n",
	} {
		if out := get(name); out != want {
			t.Errorf("%s: %q, want %q", name, out, want)
		}
	}
	if out := get("members.test", f.cert, f.key); out != "TLSv1.3 alice over HTTP/1.1 resumed false\nTLSv1.3 alice over HTTP/1.1 resumed true\n" {
		t.Errorf("with a certificate: %q", out)
	}
	for _, name := range []string{"members.test", "unknown.test"} { // without a certificate
		if out := get(name); !strings.HasPrefix(out, "failed") {
			t.Errorf("%s: %q", name, out)
		}
	}
}
