package tlsx_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"

	"github.com/palisade-go/palisade/tlsx"
)

// newCA opens an authority in a folder that lasts as long as the example.
func newCA() (ca *tlsx.CA, remove func()) {
	dir, err := os.MkdirTemp("", "tlsx-example-")
	if err != nil {
		log.Fatal(err)
	}
	ca, err = tlsx.OpenCA(tlsx.CAConfig{Dir: filepath.Join(dir, "ca"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		log.Fatal(err)
	}
	return ca, func() { os.RemoveAll(dir) }
}

// serve starts a server on a free port of loopback.
func serve(t *tlsx.Terminator, h http.Handler) (addr string, stop func() error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	srv := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0)}
	go srv.Serve(t.Listener(ln))
	return ln.Addr().String(), srv.Close
}

func get(client *http.Client, url string) string {
	res, err := client.Get(url)
	if err != nil {
		log.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		log.Fatal(err)
	}
	return string(body)
}

// A Terminator serves each name under its own policy, and no other names.
func ExampleTerminator() {
	ca, remove := newCA()
	defer remove()
	leaf, err := ca.Leaf(tlsx.LeafConfig{Names: []string{"www.example.com", "admin.example.com"}})
	if err != nil {
		log.Fatal(err)
	}
	term, err := tlsx.New(tlsx.Config{
		Certs: []tlsx.CertSource{leaf},
		Policies: []tlsx.Policy{
			{Names: []string{"www.example.com"}},
			{Names: []string{"admin.example.com"}, Profile: tlsx.Modern, Client: &tlsx.ClientAuth{Mode: tlsx.Required, Roots: ca}},
		},
		OnReject: func(name string, _ net.Addr, err error) { fmt.Println("refused", name) },
	})
	if err != nil {
		log.Fatal(err)
	}
	addr, stop := serve(term, http.NotFoundHandler())
	defer stop()
	for _, name := range []string{"www.example.com", "other.example.com"} {
		conn, err := tls.Dial("tcp", addr, &tls.Config{ServerName: name, RootCAs: ca.Roots().Pool()})
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println("connected to", conn.ConnectionState().ServerName)
		conn.Close()
	}
	// Output:
	// connected to www.example.com
	// refused other.example.com
	// remote error: tls: unrecognized name
}

// Two services prove to each other who they are, with certificates of an
// internal authority that renew themselves.
func ExampleCA() {
	ca, remove := newCA()
	defer remove()
	web, err := ca.Leaf(tlsx.LeafConfig{ID: "web", Names: []string{"web.internal"}})
	if err != nil {
		log.Fatal(err)
	}
	term, err := tlsx.New(tlsx.Config{
		Certs: []tlsx.CertSource{web},
		Policies: []tlsx.Policy{{Profile: tlsx.Modern, Client: &tlsx.ClientAuth{
			Mode:  tlsx.Required,
			Roots: ca,
			Authorize: func(_ context.Context, id *tlsx.Identity) error {
				if len(id.URIs) == 0 || id.URIs[0] != ca.Identity("billing") {
					return fmt.Errorf("%v may not come here", id.URIs)
				}
				return nil
			},
		}}},
	})
	if err != nil {
		log.Fatal(err)
	}
	addr, stop := serve(term, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id, _ := tlsx.PeerIdentity(r)
		fmt.Fprintf(w, "hello %s", id.URIs[0])
	}))
	defer stop()

	billing, err := ca.Leaf(tlsx.LeafConfig{ID: "billing"})
	if err != nil {
		log.Fatal(err)
	}
	conf, err := tlsx.BackendTLS(tlsx.Backend{Roots: ca, Cert: billing, Peer: tlsx.PeerMatcher{URIs: []string{ca.Identity("web")}}, ServerName: "web.internal"})
	if err != nil {
		log.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: conf}
	defer tr.CloseIdleConnections()
	fmt.Println(get(&http.Client{Transport: tr}, "https://"+addr))
	// Output:
	// hello spiffe://palisade.internal/billing
}

// A server is refused that has a valid certificate of the same authority, but
// is another one than was meant.
func ExampleBackendTLS() {
	ca, remove := newCA()
	defer remove()
	web2, err := ca.Leaf(tlsx.LeafConfig{ID: "web2", Names: []string{"web.internal"}})
	if err != nil {
		log.Fatal(err)
	}
	term, err := tlsx.New(tlsx.Config{Certs: []tlsx.CertSource{web2}})
	if err != nil {
		log.Fatal(err)
	}
	addr, stop := serve(term, http.NotFoundHandler())
	defer stop()
	conf, err := tlsx.BackendTLS(tlsx.Backend{
		Roots:      ca,
		Peer:       tlsx.PeerMatcher{URIs: []string{ca.Identity("web1")}},
		ServerName: "web.internal",
	})
	if err != nil {
		log.Fatal(err)
	}
	_, err = tls.Dial("tcp", addr, conf)
	fmt.Println(err)
	// Output:
	// tlsx: not the pinned peer: certificate of CN=web2
}

// The client's certificate ends at the proxy; its identity goes on.
func ExampleForward() {
	ca, remove := newCA()
	defer remove()
	leaf := func(id string, names ...string) *tlsx.LeafSource {
		s, err := ca.Leaf(tlsx.LeafConfig{ID: id, Names: names})
		if err != nil {
			log.Fatal(err)
		}
		return s
	}
	balancer, web := leaf("balancer", "www.example.com"), leaf("web", "web.internal")
	terminator := func(cert tlsx.CertSource) *tlsx.Terminator {
		t, err := tlsx.New(tlsx.Config{Certs: []tlsx.CertSource{cert}, Policies: []tlsx.Policy{{Client: &tlsx.ClientAuth{Roots: ca}}}})
		if err != nil {
			log.Fatal(err)
		}
		return t
	}

	// The application, which believes the balancer and nobody else.
	app := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if id, ok := tlsx.IdentityFrom(r.Context()); ok {
			fmt.Fprintf(w, "hello %s", id.CommonName)
		} else {
			fmt.Fprint(w, "hello stranger")
		}
	})
	webAddr, stop := serve(terminator(web), tlsx.Receive(tlsx.PeerMatcher{URIs: []string{ca.Identity("balancer")}}, app))
	defer stop()

	// The proxy before it.
	conf, err := tlsx.BackendTLS(tlsx.Backend{Roots: ca, Cert: balancer, Peer: tlsx.PeerMatcher{URIs: []string{ca.Identity("web")}}, ServerName: "web.internal"})
	if err != nil {
		log.Fatal(err)
	}
	tr := &http.Transport{TLSClientConfig: conf}
	defer tr.CloseIdleConnections()
	forward := tlsx.Forward{}
	addr, stop := serve(terminator(balancer), &httputil.ReverseProxy{
		Transport:      tr,
		ModifyResponse: forward.ModifyResponse,
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(&url.URL{Scheme: "https", Host: webAddr})
			forward.Rewrite(pr)
		},
	})
	defer stop()

	// A client with a certificate, and one that forges a header instead.
	alice := leaf("alice")
	with := &http.Transport{TLSClientConfig: &tls.Config{ServerName: "www.example.com", RootCAs: ca.Roots().Pool(),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return alice.Certificate(&tls.ClientHelloInfo{})
		}}}
	defer with.CloseIdleConnections()
	without := &http.Transport{TLSClientConfig: &tls.Config{ServerName: "www.example.com", RootCAs: ca.Roots().Pool()}}
	defer without.CloseIdleConnections()
	fmt.Println(get(&http.Client{Transport: with}, "https://"+addr))
	fmt.Println(get(&http.Client{Transport: forger{without}}, "https://"+addr))
	// Output:
	// hello alice
	// hello stranger
}

type forger struct{ http.RoundTripper }

func (f forger) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header["CLIENT_CERT"] = []string{":AAAA:"}
	return f.RoundTripper.RoundTrip(r)
}

// Identity is also there for a client that connects without a proxy.
func ExampleReceive() {
	h := tlsx.Receive(tlsx.PeerMatcher{URIs: []string{"spiffe://palisade.internal/balancer"}},
		http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			id, ok := tlsx.IdentityFrom(r.Context())
			fmt.Println(ok, id != nil, len(r.Header))
		}))
	r := httptest.NewRequest("GET", "https://web.internal/", nil)
	r.Header.Set("Client-Cert", ":AAAA:") // and nobody vouches for it
	h.ServeHTTP(httptest.NewRecorder(), r)

	alice := &x509.Certificate{Raw: []byte("alice")}
	r.TLS.PeerCertificates, r.TLS.VerifiedChains = []*x509.Certificate{alice}, [][]*x509.Certificate{{alice}}
	h.ServeHTTP(httptest.NewRecorder(), r)
	// Output:
	// false false 0
	// true true 0
}

func ExampleRedirectHTTPS() {
	h := tlsx.RedirectHTTPS(443)
	for _, host := range []string{"example.com:80", "[2001:db8::1]", "exa mple"} {
		r := httptest.NewRequest("GET", "/path?query", nil)
		r.Host = host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		fmt.Println(w.Code, w.Header().Get("Location"))
	}
	// Output:
	// 308 https://example.com/path?query
	// 308 https://[2001:db8::1]/path?query
	// 400
}

func ExampleHSTS() {
	h := tlsx.HSTS{IncludeSubdomains: true}.Handler(http.NotFoundHandler())
	for _, url := range []string{"https://example.com/", "http://example.com/"} {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", url, nil))
		fmt.Printf("%q\n", w.Header().Get("Strict-Transport-Security"))
	}
	// Output:
	// "max-age=31536000; includeSubDomains"
	// ""
}

// Certificates and authorities in files are followed when they are replaced.
func ExampleFiles() {
	ca, remove := newCA()
	defer remove()
	dir := filepath.Dir(ca.RootFile())
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	if err := ca.IssueFiles(tlsx.LeafConfig{Names: []string{"www.example.com"}}, certFile, keyFile); err != nil {
		log.Fatal(err)
	}
	cert, err := tlsx.Files(certFile, keyFile, nil)
	if err != nil {
		log.Fatal(err)
	}
	clients, err := tlsx.TrustFile(ca.RootFile(), nil)
	if err != nil {
		log.Fatal(err)
	}
	term, err := tlsx.New(tlsx.Config{
		Certs:    []tlsx.CertSource{cert},
		Policies: []tlsx.Policy{{Client: &tlsx.ClientAuth{Roots: clients}}},
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, info := range term.Certificates() {
		fmt.Println(info.Names, "by", info.Issuer)
	}
	// Output:
	// [www.example.com] by CN=Palisade internal CA
}

// A request for one name must not come over a connection made for another.
func ExampleTerminator_RequireSNIMatch() {
	ca, remove := newCA()
	defer remove()
	leaf, err := ca.Leaf(tlsx.LeafConfig{Names: []string{"www.example.com", "admin.example.com"}})
	if err != nil {
		log.Fatal(err)
	}
	term, err := tlsx.New(tlsx.Config{Certs: []tlsx.CertSource{leaf}})
	if err != nil {
		log.Fatal(err)
	}
	h := term.RequireSNIMatch(http.NotFoundHandler())
	for _, host := range []string{"www.example.com", "admin.example.com"} {
		r := httptest.NewRequest("GET", "https://"+host+"/", nil)
		r.TLS.ServerName = "www.example.com"
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		fmt.Println(host, w.Code)
	}
	// Output:
	// www.example.com 404
	// admin.example.com 421
}

// RefuseForged tells clients that forging is noticed, where a proxy would just
// ignore what they send.
func ExampleRefuseForged() {
	h := tlsx.RefuseForged(http.NotFoundHandler())
	r := httptest.NewRequest("GET", "/", nil)
	r.Header["client_cert"] = []string{":AAAA:"}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	fmt.Println(w.Code)
	// Output:
	// 400
}

func ExampleParseRoots() {
	ca, remove := newCA()
	defer remove()
	roots, err := tlsx.ParseRoots(ca.RootPEM())
	fmt.Println(roots != nil, err)
	_, err = tlsx.ParseRoots(ca.RootPEM()[:100])
	fmt.Println(err)
	// Output:
	// true <nil>
	// tlsx: authorities: a damaged PEM block
}

func ExampleParseProfile() {
	p, err := tlsx.ParseProfile("modern")
	fmt.Println(p, err)
	// Output:
	// modern <nil>
}
