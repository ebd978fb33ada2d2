package tlsx_test

import (
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"

	"github.com/palisade-go/palisade/tlsx"
)

// Two servers of a cluster share ticket keys through a folder that both see. A
// client that was at one resumes its session at the other.
func ExampleSharedTickets() {
	ca, remove := newCA()
	defer remove()
	shared, err := os.MkdirTemp("", "tlsx-example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(shared)
	key := make([]byte, 32) // from the servers' secrets, the same on each
	rand.Read(key)

	var addrs []string
	for range 2 {
		leaf, err := ca.Leaf(tlsx.LeafConfig{Names: []string{"www.example.com"}})
		if err != nil {
			log.Fatal(err)
		}
		term, err := tlsx.New(tlsx.Config{
			Certs:   []tlsx.CertSource{leaf},
			Tickets: &tlsx.SharedTickets{Storage: tlsx.DirStorage{Path: shared}, Key: key},
		})
		if err != nil {
			log.Fatal(err)
		}
		addr, stop := serve(term, http.NotFoundHandler())
		defer stop()
		addrs = append(addrs, addr)
	}

	client := &tls.Config{ServerName: "www.example.com", RootCAs: ca.Roots().Pool(), ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	for _, addr := range addrs {
		conn, err := tls.Dial("tcp", addr, client)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println("resumed:", conn.ConnectionState().DidResume)
		fmt.Fprint(conn, "GET / HTTP/1.0\r\n\r\n")
		io.Copy(io.Discard, conn) // the ticket comes after the handshake
		conn.Close()
	}
	// Output:
	// resumed: false
	// resumed: true
}
