package palisade_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/palisade-go/palisade/lb"
	"github.com/palisade-go/palisade/tlsx"
)

// headerKey is where the PROXY protocol header of a request's connection is.
type headerKey struct{}

// A proxy of connections, which cannot write into requests, tells of the client's
// certificate in the PROXY protocol. lb reads the header from those who are
// trusted to send one, tlsx knows whose identity it is, and the two meet in bytes.
func Example_proxyProtocol() {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	ln, err = lb.ProxyProtocolListener(ln, lb.ProxyProtocolConfig{Trusted: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	if err != nil {
		log.Fatal(err)
	}
	receiver := tlsx.Receiver{ProxyTLS: func(ctx context.Context) ([]byte, bool) {
		header, _ := ctx.Value(headerKey{}).(*lb.ProxyHeader)
		if header == nil || header.TLS == nil {
			return nil, false
		}
		value, err := header.TLS.MarshalBinary()
		return value, err == nil
	}}
	srv := &http.Server{
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, headerKey{}, lb.ProxyHeaderOf(conn))
		},
		Handler: receiver.Handler(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			id, ok := tlsx.IdentityFrom(r.Context())
			if !ok {
				id = &tlsx.Identity{CommonName: "nobody"}
			}
			fmt.Println(id.CommonName, "from", r.RemoteAddr)
		})),
	}
	go srv.Serve(ln)
	defer srv.Close()

	// What the proxy does, for a client with a certificate and for one without.
	for _, told := range []*lb.ProxyTLS{
		{Active: true, CertConn: true, ClientCert: newCertificate("alice")},
		{Active: true, CommonName: "alice"},
	} {
		header, err := (&lb.ProxyHeader{
			Source: netip.MustParseAddrPort("203.0.113.7:4711"), Destination: netip.MustParseAddrPort("203.0.113.1:443"), TLS: told,
		}).Append(nil)
		if err != nil {
			log.Fatal(err)
		}
		dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err == nil {
				_, err = conn.Write(header)
			}
			return conn, err
		}
		client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
		res, err := client.Get("http://" + ln.Addr().String())
		if err != nil {
			log.Fatal(err)
		}
		res.Body.Close()
	}
	// Output:
	// alice from 203.0.113.7:4711
	// nobody from 203.0.113.7:4711
}

// newCertificate is one that a proxy might have verified, in DER.
func newCertificate(name string) []byte {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		log.Fatal(err)
	}
	return der
}
