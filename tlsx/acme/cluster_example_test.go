package acme_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"log/slog"
	"os"
	"strings"

	"github.com/caddyserver/certmagic"
	"github.com/libdns/libdns"

	"github.com/palisade-go/palisade/tlsx"
	"github.com/palisade-go/palisade/tlsx/acme"
)

// Cluster storage: servers that share a storage share certificates and ticket
// keys. This is one of them; the others have the same configuration.
func Example_clusterStorage() {
	dir, err := os.MkdirTemp("", "acme-example-") // or any other certmagic.Storage
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	storage := &certmagic.FileStorage{Path: dir}
	source, err := acme.New(acme.Config{
		Names:   []string{"www.example.com"},
		Storage: storage,
		Logger:  slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer source.Close()
	key := []byte("32 secret bytes, on every server") // from a file or a vault
	_, err = tlsx.New(tlsx.Config{
		Certs:   []tlsx.CertSource{source},
		Tickets: &tlsx.SharedTickets{Storage: acme.SharedStorage{Storage: storage}, Key: key},
		OnCert:  func(e tlsx.CertEvent) { log.Print(e.Kind, " ", e.Name) },
	})
	fmt.Println(err)
	// Output:
	// <nil>
}

// What else a cluster shares can be beside its certificates.
func ExampleSharedStorage() {
	dir, err := os.MkdirTemp("", "acme-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	var s tlsx.Storage = acme.SharedStorage{Storage: &certmagic.FileStorage{Path: dir}}
	_, err = s.Load(ctx, "leader")
	fmt.Println(errors.Is(err, fs.ErrNotExist))
	fmt.Println(s.Swap(ctx, "leader", nil, []byte("one")))
	err = s.Swap(ctx, "leader", nil, []byte("two"))
	fmt.Println(errors.Is(err, tlsx.ErrConflict))
	value, err := s.Load(ctx, "leader")
	fmt.Printf("%s %v\n", value, err)
	// Output:
	// true
	// <nil>
	// true
	// one <nil>
}

// myDNS stands for one of the libdns packages.
type myDNS struct{}

func (myDNS) AppendRecords(_ context.Context, _ string, records []libdns.Record) ([]libdns.Record, error) {
	return records, nil
}

func (myDNS) DeleteRecords(_ context.Context, _ string, records []libdns.Record) ([]libdns.Record, error) {
	return records, nil
}

// Certificates for a wildcard, proved by DNS records.
func ExampleDNS() {
	conf := acme.Config{
		Names:   []string{"*.example.com"},
		Storage: &certmagic.FileStorage{Path: os.TempDir()},
		DNS:     &acme.DNS{Provider: myDNS{}, Resolvers: []string{"192.0.2.53:53"}},
		Logger:  slog.New(slog.DiscardHandler),
	}
	source, err := acme.New(conf)
	if err != nil {
		log.Fatal(err)
	}
	defer source.Close()
	conf.DNS = nil
	_, err = acme.New(conf)
	fmt.Println(err)
	// Output:
	// acme: Config.Names has "*.example.com", want a DNS name or an IP address, a wildcard with DNS only and an address without
}

// The same by a record that is set once, by whoever runs the zone. Until it is
// there, the events say which one.
func ExamplePersistentDNS() {
	dir, err := os.MkdirTemp("", "acme-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	source, err := acme.New(acme.Config{
		Names:         []string{"www.example.com", "*.example.com"},
		Storage:       &certmagic.FileStorage{Path: dir},
		PersistentDNS: &acme.PersistentDNS{},
		OnEvent: func(e acme.Event) {
			if errors.Is(e.Err, acme.ErrNoRecord) {
				log.Print(e.Err)
			}
		},
		Logger: slog.New(slog.DiscardHandler),
	})
	fmt.Println(err)
	defer source.Close()
	// Output:
	// <nil>
}

// Before the first order: does the DNS permit the authority? There is none at
// this address, so that nothing can be said.
func ExampleSource_CheckCAA() {
	dir, err := os.MkdirTemp("", "acme-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	source, err := acme.New(acme.Config{
		Names:     []string{"www.example.com"},
		Storage:   &certmagic.FileStorage{Path: dir},
		Directory: "https://127.0.0.1:1/directory",
		Logger:    slog.New(slog.DiscardHandler),
	})
	if err != nil {
		log.Fatal(err)
	}
	defer source.Close()
	checks, err := source.CheckCAA(context.Background(), "192.0.2.53:53")
	for _, c := range checks {
		if !c.Permitted {
			fmt.Println(c.Name, "is closed by", strings.Join(c.Records, ", "))
		}
		fmt.Println("to set:", c.Record)
	}
	fmt.Println(err != nil)
	// Output:
	// true
}
