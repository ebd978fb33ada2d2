package tlsx_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/palisade-go/palisade/tlsx"
)

// A folder that several processes use at once. Of two that change the same
// value, one has to look again.
func ExampleDirStorage() {
	dir, err := os.MkdirTemp("", "tlsx-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	ctx, storage := context.Background(), tlsx.DirStorage{Path: dir}
	_, err = storage.Load(ctx, "counter")
	fmt.Println(errors.Is(err, fs.ErrNotExist))
	fmt.Println(storage.Swap(ctx, "counter", nil, []byte("1")))
	fmt.Println(storage.Swap(ctx, "counter", []byte("1"), []byte("2")))
	err = storage.Swap(ctx, "counter", []byte("1"), []byte("2")) // somebody was first
	fmt.Println(errors.Is(err, tlsx.ErrConflict))
	value, err := storage.Load(ctx, "counter")
	fmt.Printf("%s %v\n", value, err)
	// Output:
	// true
	// <nil>
	// <nil>
	// true
	// 2 <nil>
}

// exampleAuthority returns an authority and two certificates that it signed.
func exampleAuthority() (root *x509.Certificate, key *ecdsa.PrivateKey, alice, bob *x509.Certificate) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	sign := func(name string, serial int64, parent *x509.Certificate) *x509.Certificate {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
			IsCA: parent == nil, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		}
		if parent == nil {
			parent = template
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), key)
		if err != nil {
			log.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			log.Fatal(err)
		}
		return cert
	}
	root = sign("root", 1, nil)
	return root, key, sign("alice", 2, root), sign("bob", 3, root)
}

// A revocation list takes certificates back before they expire. Here the
// authority is a key of the example's own; a list comes from whoever runs it.
func ExampleCRLFile() {
	dir, err := os.MkdirTemp("", "tlsx-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	root, key, alice, bob := exampleAuthority()
	list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number:                    big.NewInt(1),
		ThisUpdate:                time.Now(),
		NextUpdate:                time.Now().Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: alice.SerialNumber, RevocationTime: time.Now()}},
	}, root, key)
	if err != nil {
		log.Fatal(err)
	}
	file := filepath.Join(dir, "revoked.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: list}), 0o600); err != nil {
		log.Fatal(err)
	}

	revoked, err := tlsx.CRLFile(file, nil) // for ClientAuth.Revoked
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("alice:", errors.Is(revoked.Revoked(alice, root), tlsx.ErrRevoked))
	fmt.Println("bob:", revoked.Revoked(bob, root))
	// Output:
	// alice: true
	// bob: <nil>
}
