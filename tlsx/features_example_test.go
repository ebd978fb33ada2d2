package tlsx_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httptest"

	"github.com/palisade-go/palisade/tlsx"
)

// A host keeps its key to itself and has the authority sign a request. Whom the
// certificate names is for the authority to say.
func ExampleCA_SignCSR() {
	ca, remove := newCA()
	defer remove()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"bank.example"}}, key)
	if err != nil {
		log.Fatal(err)
	}
	request := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})

	chain, err := ca.SignCSR(request, tlsx.LeafConfig{ID: "web1", Names: []string{"web1.internal"}})
	if err != nil {
		log.Fatal(err)
	}
	block, _ := pem.Decode(chain)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(cert.DNSNames, cert.URIs)
	// Output:
	// [web1.internal] [spiffe://palisade.internal/web1]
}

type proxyHeader struct{}

// A balancer that passes on bytes tells of the client's certificate in the
// header of the PROXY protocol. What the client writes in a field is worth
// nothing.
func ExampleReceiver() {
	h := tlsx.Receiver{
		ProxyTLS: func(ctx context.Context) ([]byte, bool) {
			value, ok := ctx.Value(proxyHeader{}).([]byte) // from http.Server.ConnContext
			return value, ok
		},
	}.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, ok := tlsx.IdentityFrom(r.Context())
		fmt.Println(ok, len(r.Header))
	}))
	r := httptest.NewRequest("GET", "https://web.internal/", nil)
	r.Header.Set("Client-Cert", ":AAAA:")
	withoutCert := []byte{1, 0, 0, 0, 0} // TLS, but no certificate
	r = r.WithContext(context.WithValue(r.Context(), proxyHeader{}, withoutCert))
	h.ServeHTTP(httptest.NewRecorder(), r)
	// Output:
	// false 0
}

// The name that a client asks for is encrypted; another is seen on the way.
func ExampleECH() {
	ca, remove := newCA()
	defer remove()
	leaf, err := ca.Leaf(tlsx.LeafConfig{Names: []string{"public.example", "secret.example"}})
	if err != nil {
		log.Fatal(err)
	}
	term, err := tlsx.New(tlsx.Config{Certs: []tlsx.CertSource{leaf}, ECH: &tlsx.ECH{PublicName: "public.example"}})
	if err != nil {
		log.Fatal(err)
	}
	addr, stop := serve(term, http.NotFoundHandler())
	defer stop()
	conn, err := tls.Dial("tcp", addr, &tls.Config{
		ServerName:                     "secret.example",
		RootCAs:                        ca.Roots().Pool(),
		MinVersion:                     tls.VersionTLS13,
		EncryptedClientHelloConfigList: term.ECHConfigList(), // from DNS
	})
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	fmt.Println(conn.ConnectionState().ECHAccepted)
	// Output:
	// true
}

// A source that has to ask somebody is asked once for each name.
func ExampleUnknownNames() {
	source := tlsx.CertFunc(func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		fmt.Println("looking for", hello.ServerName)
		return nil, nil
	})
	term, err := tlsx.New(tlsx.Config{
		Certs:   []tlsx.CertSource{source},
		Unknown: &tlsx.UnknownNames{PerClient: 2},
		OnReject: func(name string, _ net.Addr, err error) {
			fmt.Println(name, errors.Is(err, tlsx.ErrUnknownFlood))
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	addr, stop := serve(term, http.NotFoundHandler())
	defer stop()
	for _, name := range []string{"a.example", "a.example", "b.example", "c.example"} {
		if _, err := tls.Dial("tcp", addr, &tls.Config{ServerName: name}); err == nil {
			log.Fatal("connected")
		}
	}
	// Output:
	// looking for a.example
	// a.example false
	// a.example false
	// looking for b.example
	// b.example false
	// c.example true
}
