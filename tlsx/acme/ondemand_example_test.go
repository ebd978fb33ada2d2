package acme_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"os"

	"github.com/caddyserver/certmagic"

	"github.com/palisade-go/palisade/tlsx/acme"
)

// Certificates for the domains of customers, whoever these may be tomorrow.
func ExampleOnDemand() {
	dir, err := os.MkdirTemp("", "acme-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	customers := map[string]bool{"shop.example": true} // in a database, more likely
	source, err := acme.New(acme.Config{
		Storage: &certmagic.FileStorage{Path: dir},
		OnDemand: &acme.OnDemand{
			Decide: func(_ context.Context, name string, _ net.Addr) error {
				if !customers[name] {
					return errors.New("no customer of ours")
				}
				return nil
			},
			PerMinute: 5,
		},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer source.Close()
	_, err = source.Certificate(&tls.ClientHelloInfo{ServerName: "stranger.example"})
	fmt.Println(errors.Is(err, acme.ErrDenied))
	fmt.Println(err)
	// Output:
	// true
	// acme: no certificate on demand for this name: no customer of ours
}
