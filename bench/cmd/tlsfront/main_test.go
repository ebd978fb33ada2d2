package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

const name = "bench.example"

// newFiles makes a certificate that certifies itself, for both sides.
func newFiles(t *testing.T) (options, *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	o := options{listen: "127.0.0.1:0", stack: "palisade", http: "nethttp", name: name, cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem"), dir: filepath.Join(dir, "tickets")}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := errors.Join(os.WriteFile(o.cert, certPEM, 0o600), os.WriteFile(o.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600)); err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(certPEM)
	return o, &tls.Config{ServerName: name, RootCAs: pool, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// ask serves by the options and returns the body of one response.
func ask(t *testing.T, o options, client *tls.Config) (string, error) {
	t.Helper()
	ln, err := net.Listen("tcp", o.listen)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	srv, tlsListener, err := o.server(ln)
	if err != nil {
		t.Fatal(err)
	}
	go srv.Serve(tlsListener)
	tr := &http.Transport{TLSClientConfig: client, DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+ln.Addr().String()+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = name
	res, err := tr.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return string(body), err
}

func TestStacks(t *testing.T) {
	for _, stack := range []string{"palisade", "palisade lb", "bare"} {
		o, client := newFiles(t)
		if o.stack = stack; stack == "palisade lb" {
			o.stack, o.http = "palisade", "lb"
		}
		nobody := client.Clone()
		nobody.Certificates = nil
		if body, err := ask(t, o, nobody); body != answer || err != nil {
			t.Errorf("%s: %q, %v", stack, body, err)
		}
		o.clientCA = o.cert
		if body, err := ask(t, o, client); body != answer || err != nil {
			t.Errorf("%s, mutual: %q, %v", stack, body, err)
		}
		if _, err := ask(t, o, nobody); err == nil {
			t.Errorf("%s, mutual: served a client without a certificate", stack)
		}
	}
}

func TestProxies(t *testing.T) {
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "from behind") })
	for _, proxy := range []string{"palisade", "httputil"} {
		o, client := newFiles(t)
		plain := httptest.NewServer(handler)
		defer plain.Close()
		o.proxy, o.backend = proxy, plain.URL
		if body, err := ask(t, o, client); body != "from behind" || err != nil {
			t.Errorf("%s: %q, %v", proxy, body, err)
		}
		secure := httptest.NewUnstartedServer(handler)
		secure.TLS = &tls.Config{Certificates: client.Certificates, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: client.RootCAs}
		secure.StartTLS()
		defer secure.Close()
		o.backend, o.backendCA = secure.URL, o.cert
		if body, err := ask(t, o, client); body != "from behind" || err != nil {
			t.Errorf("%s, over mutual TLS: %q, %v", proxy, body, err)
		}
	}
}

func TestMistakes(t *testing.T) {
	o, _ := newFiles(t)
	for _, change := range []func(*options){
		func(o *options) { o.stack = "x" },
		func(o *options) { o.http = "x" },
		func(o *options) { o.stack, o.backend = "bare", "http://127.0.0.1:1" },
		func(o *options) { o.proxy, o.backend = "x", "http://127.0.0.1:1" },
		func(o *options) { o.cert = "none" },
	} {
		wrong := o
		change(&wrong)
		if _, _, err := wrong.server(nil); err == nil {
			t.Errorf("%+v: no error", wrong)
		}
	}
}
