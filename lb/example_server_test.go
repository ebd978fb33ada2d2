package lb_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/palisade-go/palisade/lb"
)

// A Server takes the place of an http.Server.
func ExampleServer() {
	server := &lb.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintln(w, "hello", r.URL.Path)
		}),
		ReadTimeout:       time.Minute,
		MinBodyRate:       500,
		MaxConnsPerClient: 100,
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(ln) }()

	res, err := http.Get("http://" + ln.Addr().String() + "/world")
	if err != nil {
		fmt.Println(err)
		return
	}
	io.Copy(os.Stdout, res.Body)
	res.Body.Close()
	http.DefaultClient.CloseIdleConnections()

	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	fmt.Println(server.Shutdown(ctx), <-ended)
	// Output:
	// hello /world
	// <nil> http: Server closed
}
