package acme_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http/httptest"
	"os"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/palisade-go/palisade/tlsx"
	"github.com/palisade-go/palisade/tlsx/acme"
)

// Automatic HTTPS: a Source beside the rest of a server. The authority here does
// not exist, so that there is no certificate yet.
func Example_automaticHTTPS() {
	dir, err := os.MkdirTemp("", "acme-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	source, err := acme.New(acme.Config{
		Names:     []string{"www.example.com"},
		Storage:   &certmagic.FileStorage{Path: dir},
		Directory: "https://127.0.0.1:1/directory", // leave it empty for Let's Encrypt
		Logger:    slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer source.Close()

	// Port 443 gets its certificates from the source, and port 80 answers
	// challenges and leads everyone else to port 443.
	if _, err := tlsx.New(tlsx.Config{Certs: []tlsx.CertSource{source}}); err != nil {
		log.Fatal(err)
	}
	plain := source.HTTPHandler(tlsx.RedirectHTTPS(443))
	w := httptest.NewRecorder()
	plain.ServeHTTP(w, httptest.NewRequest("GET", "http://www.example.com/", nil))
	fmt.Println(w.Code, w.Header().Get("Location"))

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	err = source.Obtain(ctx)
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	cert, err := source.Certificate(&tls.ClientHelloInfo{ServerName: "www.example.com"})
	fmt.Println(cert != nil, err)
	// Output:
	// 308 https://www.example.com/
	// true
	// false <nil>
}

// What a Source holds can be shown, with the time of its renewal.
func ExampleSource() {
	dir, err := os.MkdirTemp("", "acme-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	source, err := acme.New(acme.Config{
		Names:    []string{"www.example.com", "192.0.2.1"},
		Profile:  "shortlived", // six days, which Let's Encrypt wants for addresses
		Storage:  &certmagic.FileStorage{Path: dir},
		Staging:  &acme.Authority{Directory: acme.LetsEncryptStaging},
		HTTPPort: 8080, // where port 80 is forwarded to
		OnEvent: func(e acme.Event) {
			if e.Kind == acme.Expiring {
				log.Print("wake somebody: ", e.Name, e.Err)
			}
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, cert := range source.Certificates() {
		at, _, _ := source.Renewal(cert)
		fmt.Println(cert.DNSNames, "expires", cert.NotAfter, "renewed", at)
	}
	fmt.Println(source.Close(), errors.Is(source.Obtain(context.Background()), acme.ErrClosed))
	// Output:
	// <nil> true
}

// All mistakes are reported at once.
func ExampleNew() {
	_, err := acme.New(acme.Config{Names: []string{"*.example.com"}})
	fmt.Println(err)
	// Output:
	// acme: Config.Names has "*.example.com", want a DNS name or an IP address, a wildcard with DNS only and an address without
	// acme: Config.Storage is nil, want a place for keys and certificates
}
