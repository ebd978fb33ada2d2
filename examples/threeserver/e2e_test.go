package main

import (
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os/exec"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/palisade-go/palisade/internal/testcert"
	"github.com/palisade-go/palisade/qps"
)

// TestStack drives one running stack through the promises of its README, with
// every database it can start by itself.
func TestStack(t *testing.T) {
	for _, db := range []string{"mariadb", "embedded"} {
		t.Run(db, func(t *testing.T) {
			if db == "mariadb" {
				need(t, "mariadbd")
			}
			a := freeAddresses(t)
			p := start(t, a.flags("-db", db)...)
			t.Run("certificate", func(t *testing.T) { testCertificate(t, p, a) })
			t.Run("redirect", func(t *testing.T) { testRedirect(t, p, a) })
			t.Run("load", func(t *testing.T) { testLoad(t, p, a) })
			t.Run("read your writes", func(t *testing.T) { testReadYourWrites(t, p, a) })
			t.Run("bad input", func(t *testing.T) { testBadInput(t, p, a) })
			t.Run("escaping", func(t *testing.T) { testEscaping(t, p, a) })
			t.Run("identity", func(t *testing.T) { testIdentity(t, p, a) })
			t.Run("forgery", func(t *testing.T) { testForgery(t, p, a) })
			t.Run("web servers refuse strangers", func(t *testing.T) { testStrangers(t, p, a) })
			t.Run("inner paths", func(t *testing.T) { testInnerPaths(t, p, a) })
			t.Run("admin", func(t *testing.T) { testAdmin(t, p, a) })
		})
	}
}

func testCertificate(t *testing.T, p *process, a addresses) {
	need(t, "openssl")
	host, port, _ := net.SplitHostPort(a.https)
	for _, args := range [][]string{
		{"-servername", "localhost", "-verify_hostname", "localhost"},
		{"-noservername", "-verify_ip", host},
	} {
		args = append([]string{"s_client", "-connect", net.JoinHostPort(host, port), "-CAfile", p.printed(`CA to trust\s+(\S+)`), "-verify_return_error"}, args...)
		cmd := exec.CommandContext(t.Context(), "openssl", args...)
		cmd.Stdin = strings.NewReader("")
		out, err := cmd.CombinedOutput()
		if err != nil || !bytes.Contains(out, []byte("Verify return code: 0 (ok)")) {
			t.Errorf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	old := &tls.Config{RootCAs: p.caPool(), ServerName: "localhost", MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}
	if c, err := tls.Dial("tcp", a.https, old); err == nil {
		c.Close()
		t.Error("TLS 1.1 was accepted")
	}
	stranger := &tls.Config{InsecureSkipVerify: true, ServerName: "unknown.example"}
	if c, err := tls.Dial("tcp", a.https, stranger); err == nil {
		c.Close()
		t.Error("a name that the edge does not serve got a certificate")
	}
}

func testRedirect(t *testing.T, p *process, a addresses) {
	c := p.client()
	status, h, _ := get(t, c, "http://"+a.http+"/api/notes?x=1")
	want := "https://" + a.https + "/api/notes?x=1"
	if status != http.StatusPermanentRedirect && status != http.StatusMovedPermanently || h.Get("Location") != want {
		t.Errorf("status %d, Location %q; want a permanent redirect to %q", status, h.Get("Location"), want)
	}
	if _, h, _ = get(t, c, "https://"+a.https+"/"); !strings.Contains(h.Get("Strict-Transport-Security"), "max-age=") {
		t.Errorf("no HSTS over HTTPS: %q", h.Get("Strict-Transport-Security"))
	}
}

func testLoad(t *testing.T, p *process, a addresses) {
	const workers, each = 10, 100
	servers := make(map[string]int)
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range workers {
		c := p.client()
		if w%2 == 0 {
			c = p.http1Client()
		}
		wg.Go(func() {
			for range each {
				res, err := c.Get("https://" + a.https + "/api/notes")
				if err != nil {
					t.Error(err)
					return
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode != http.StatusOK || !json.Valid(body) {
					t.Errorf("status %d, %v, body %q", res.StatusCode, err, body)
					return
				}
				mu.Lock()
				servers[res.Header.Get("X-Served-By")]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if servers["web1"]+servers["web2"] != workers*each || servers["web1"] < workers*each/4 || servers["web2"] < workers*each/4 {
		t.Errorf("answers by server: %v; want %d, shared", servers, workers*each)
	}
}

// post adds a note and returns the name of the web server that took it.
func post(t *testing.T, c *http.Client, a addresses, text string) string {
	t.Helper()
	body, err := json.Marshal(map[string]string{"text": text})
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Post("https://"+a.https+"/api/notes", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	status, h, answer := read(t, res)
	if status != http.StatusCreated {
		t.Fatalf("status %d: %s", status, answer)
	}
	return h.Get("X-Served-By")
}

// testReadYourWrites posts notes and lists after each until both web servers have
// answered: first without cookies, so that nothing but the stack's own
// consistency helps the client, and then with them.
func testReadYourWrites(t *testing.T, p *process, a addresses) {
	c := p.http1Client()
	readYourWrites(t, c, a, 150)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	c.Jar = jar
	readYourWrites(t, c, a, 50)
	if len(jar.Cookies(&url.URL{Scheme: "https", Host: a.https})) != 1 {
		t.Error("the session came in no cookie")
	}
}

func readYourWrites(t *testing.T, c *http.Client, a addresses, rounds int) {
	for i := range rounds {
		text := fmt.Sprintf("note %d of %d <%s>", i, rounds, t.Name())
		post(t, c, a, text)
		seen := make(map[string]bool)
		for try := 0; len(seen) < 2 && try < 40; try++ {
			status, h, body := get(t, c, "https://"+a.https+"/api/notes")
			var notes []note
			if err := json.Unmarshal([]byte(body), &notes); err != nil || status != http.StatusOK {
				t.Fatalf("status %d, %v: %s", status, err, body)
			}
			if len(notes) == 0 || notes[0].Text != text {
				t.Fatalf("round %d: %s does not list the note just posted first", i, h.Get("X-Served-By"))
			}
			seen[h.Get("X-Served-By")] = true
		}
		if len(seen) < 2 {
			t.Fatalf("only %v answered", seen)
		}
	}
}

func testBadInput(t *testing.T, p *process, a addresses) {
	c := p.client()
	for _, bad := range []struct{ name, contentType, body string }{
		{"wrong content type", "text/plain", `{"text":"x"}`},
		{"wrong type", "application/json", `{"text":5}`},
		{"broken", "application/json", `{"text":"x"`},
		{"empty", "application/json", `{"text":""}`},
		{"blank", "application/json", `{"text":" \n"}`},
		{"missing", "application/json", `{}`},
		{"two values", "application/json", `{"text":"x"}{"text":"y"}`},
		{"unknown field", "application/json", `{"text":"x","admin":true}`},
		{"too long", "application/json", `{"text":"` + strings.Repeat("x", maxNoteBytes+1) + `"}`},
		{"much too long", "application/json", `{"text":"` + strings.Repeat("x", 1<<20) + `"}`},
		{"not UTF-8", "application/json", "{\"text\":\"\xff\xfe\"}"},
		{"NUL", "application/json", `{"text":"\u0000"}`},
	} {
		res, err := c.Post("https://"+a.https+"/api/notes", bad.contentType, strings.NewReader(bad.body))
		if err != nil {
			t.Errorf("%s: %v", bad.name, err)
			continue
		}
		status, h, body := read(t, res)
		var answer struct{ Error string }
		err = json.Unmarshal([]byte(body), &answer)
		if status < 400 || status > 499 || err != nil || answer.Error == "" || !strings.HasPrefix(h.Get("Content-Type"), "application/json") {
			t.Errorf("%s: status %d, %s: %s", bad.name, status, h.Get("Content-Type"), body)
		}
	}
	longest := strings.Repeat("é", maxNoteBytes/2)
	post(t, c, a, longest)
	if _, _, body := get(t, c, "https://"+a.https+"/api/notes"); !strings.Contains(body, longest) {
		t.Error("the longest note is not listed")
	}
}

func testEscaping(t *testing.T, p *process, a addresses) {
	c := p.client()
	post(t, c, a, `<script>alert("x")</script>`)
	status, h, body := get(t, c, "https://"+a.https+"/")
	if status != http.StatusOK || !strings.HasPrefix(h.Get("Content-Type"), "text/html") {
		t.Errorf("status %d, Content-Type %q", status, h.Get("Content-Type"))
	}
	if strings.Contains(body, "<script>") || !strings.Contains(body, "&lt;script&gt;") {
		t.Errorf("the note is not escaped:\n%s", body)
	}
	form, err := c.PostForm("https://"+a.https+"/", map[string][]string{"text": {"by form"}})
	if err != nil {
		t.Fatal(err)
	}
	if status, h, _ := read(t, form); status != http.StatusSeeOther || h.Get("Location") != "/" {
		t.Errorf("form: status %d, Location %q", status, h.Get("Location"))
	}
	if _, _, body := get(t, c, "https://"+a.https+"/"); !strings.Contains(body, "by form") {
		t.Error("the note of the form is not on the page")
	}
}

var identityOnPage = regexp.MustCompile(`id="identity">([^<]*)<`)

func pageIdentity(t *testing.T, c *http.Client, req *http.Request) string {
	t.Helper()
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_, _, body := read(t, res)
	m := identityOnPage.FindStringSubmatch(body)
	if m == nil {
		t.Fatalf("no identity on the page:\n%s", body)
	}
	return m[1]
}

func newGet(t *testing.T, url string) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func testIdentity(t *testing.T, p *process, a addresses) {
	url := "https://" + a.https + "/"
	if got := pageIdentity(t, p.client(p.demoCert()), newGet(t, url)); !strings.Contains(got, "visitor") {
		t.Errorf("with a client certificate the page says %q", got)
	}
	if got := pageIdentity(t, p.client(), newGet(t, url)); !strings.Contains(got, "not identified") {
		t.Errorf("without a client certificate the page says %q", got)
	}
	// Certificates alone would be held back: crypto/tls shows those only that
	// the server asked for.
	stranger := testcert.NewCA(t).Issue(testcert.Leaf{CommonName: "mallory"})
	c := p.http1Client()
	c.Transport.(*http.Transport).TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &stranger, nil }
	if res, err := c.Get(url); err == nil {
		res.Body.Close()
		t.Errorf("a client certificate of an unknown CA got %s", res.Status)
	}
}

func testForgery(t *testing.T, p *process, a addresses) {
	visitor := p.demoCert()
	forged := ":" + base64.StdEncoding.EncodeToString(visitor.Certificate[0]) + ":"
	for _, header := range []string{"Client-Cert", "client-cert", "Client_Cert", "client_cert", "CLIENT-CERT", "Client-Cert-Chain", "X-Forwarded-Client-Cert"} {
		for _, connection := range []string{"", header} {
			for name, c := range map[string]*http.Client{"h1": p.http1Client(), "h2": p.client()} {
				req := newGet(t, "https://"+a.https+"/")
				req.Header[header] = []string{forged}
				if connection != "" && name == "h1" {
					req.Header.Set("Connection", connection)
				}
				res, err := c.Do(req)
				if err != nil {
					t.Errorf("%s %s: %v", name, header, err)
					continue
				}
				status, _, body := read(t, res)
				m := identityOnPage.FindStringSubmatch(body)
				if status != http.StatusBadRequest && (m == nil || !strings.Contains(m[1], "not identified")) {
					t.Errorf("%s %s (Connection %q): status %d, page says %q", name, header, connection, status, m)
				}
			}
		}
		// With a certificate of its own, the client stays who it is.
		req := newGet(t, "https://"+a.https+"/")
		req.Header[header] = []string{":AAAA:"}
		req.Header.Set("Connection", header)
		if got := pageIdentity(t, p.http1Client(visitor), req); !strings.Contains(got, "visitor") {
			t.Errorf("forging %s lost the identity: page says %q", header, got)
		}
	}
}

func testStrangers(t *testing.T, p *process, a addresses) {
	for _, web := range []string{a.web1, a.web2} {
		if res, err := (&http.Client{Timeout: 5 * time.Second}).Get("http://" + web + "/api/notes"); err == nil {
			_, _, body := read(t, res)
			if res.StatusCode < 400 || strings.Contains(body, "created") {
				t.Errorf("plaintext to %s: %s %q", web, res.Status, body)
			}
		}
		other := testcert.NewCA(t).Issue(testcert.Leaf{CommonName: "balancer"})
		for name, certs := range map[string][]tls.Certificate{"none": nil, "the visitor's": {p.demoCert()}, "a stranger's": {other}} {
			conf := &tls.Config{InsecureSkipVerify: true, ServerName: webName}
			if len(certs) > 0 {
				conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &certs[0], nil }
			}
			tr := &http.Transport{TLSClientConfig: conf}
			res, err := (&http.Client{Transport: tr, Timeout: 5 * time.Second}).Get("https://" + web + "/api/notes")
			if err == nil {
				res.Body.Close()
				t.Errorf("%s answered %s with the certificate: %s", web, res.Status, name)
			}
			tr.CloseIdleConnections()
		}
	}
}

// testInnerPaths holds the edge to keep what the servers tell each other to
// itself, however the path is spelled.
func testInnerPaths(t *testing.T, p *process, a addresses) {
	c := p.http1Client()
	for _, path := range []string{"/-/snapshot", "//-/snapshot", "/x/../-/snapshot", "/%2d/snapshot", "/-%2fsnapshot", "/./-/snapshot"} {
		conn, err := tls.Dial("tcp", a.https, c.Transport.(*http.Transport).TLSClientConfig.Clone())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", path, a.https)
		answer, err := io.ReadAll(conn)
		conn.Close()
		if err != nil && len(answer) == 0 {
			t.Errorf("%s: %v", path, err)
		}
		if bytes.Contains(answer, []byte("web1")) && bytes.Contains(answer, []byte("routes")) || bytes.HasPrefix(answer, []byte("HTTP/1.1 200")) {
			t.Errorf("%s is answered from outside:\n%.300s", path, answer)
		}
	}
}

func testAdmin(t *testing.T, p *process, a addresses) {
	c := &http.Client{Timeout: 10 * time.Second}
	eventually(t, 30*time.Second, func() error {
		_, _, text := get(t, c, "http://"+a.admin+"/metrics")
		for _, server := range []string{"balancer", "web1", "web2"} {
			if !regexp.MustCompile(`(?m)^http_requests_total\{[^}]*server="` + server + `"[^}]*\} [1-9]`).MatchString(text) {
				return fmt.Errorf("no requests of %s in the metrics", server)
			}
		}
		return nil
	})
	_, _, text := get(t, c, "http://"+a.admin+"/metrics")
	if _, err := exec.LookPath("promtool"); err == nil {
		cmd := exec.CommandContext(t.Context(), "promtool", "check", "metrics")
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("promtool check metrics: %v\n%s", err, out)
		}
	} else {
		need(t, "promtool")
	}
	status, h, page := get(t, c, "http://"+a.admin+"/")
	if status != http.StatusOK || !strings.HasPrefix(h.Get("Content-Type"), "text/html") {
		t.Errorf("overview: status %d, %s", status, h.Get("Content-Type"))
	}
	for _, want := range []string{"balancer", "web1", "web2", "GET /api/notes", "p99", "primary", "replica"} {
		if !strings.Contains(page, want) {
			t.Errorf("the overview does not show %q", want)
		}
	}
	testFleet(t, c, a)
}

// testFleet compares the page and the merged numbers with those of each server.
func testFleet(t *testing.T, c *http.Client, a addresses) {
	t.Helper()
	_, _, text := get(t, c, "http://"+a.admin+"/api/v1/fleet")
	var fleet qps.FleetSnapshot
	if err := json.Unmarshal([]byte(text), &fleet); err != nil {
		t.Fatal(err)
	}
	const route = "GET /api/notes"
	var servers []string
	var all qps.RouteSnapshot // of this route
	for _, p := range fleet.Peers {
		servers = append(servers, p.Name)
		if p.Lost || p.Snapshot.Server != p.Name {
			t.Errorf("%s: lost %v, a snapshot of %q", p.Name, p.Lost, p.Snapshot.Server)
		}
		for _, r := range p.Snapshot.Routes {
			if r.Route == route {
				all.Duration = all.Duration.Merge(r.Duration)
				all.Counts.Status2xx += r.Counts.Status2xx
			}
		}
	}
	if want := []string{"balancer", "web1", "web2"}; !slices.Equal(servers, want) {
		t.Errorf("the fleet is %q, want %q", servers, want)
	}
	for _, r := range fleet.Merged.Routes {
		if r.Route != route {
			continue
		}
		if r.Counts.Status2xx != all.Counts.Status2xx || !reflect.DeepEqual(r.Duration, all.Duration) {
			t.Errorf("%s merged: %d requests, p99 %v; the servers together have %d, %v",
				route, r.Counts.Status2xx, r.Quantile(0.99), all.Counts.Status2xx, all.Quantile(0.99))
		}
		row := fmt.Sprintf(`<td>%s</td><td>[\d.]+</td><td>[\d.]+</td><td>%d</td>`, route, r.Requests())
		_, _, page := get(t, c, "http://"+a.admin+"/")
		_, merged, _ := strings.Cut(page, "All servers")
		merged, _, _ = strings.Cut(merged, "</table>")
		if !regexp.MustCompile(row).MatchString(merged) {
			t.Errorf("the page does not show the %d requests of %s as those of all servers:\n%s", r.Requests(), route, merged)
		}
		return
	}
	t.Errorf("%s is not in the merged routes", route)
}
