package lb_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
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

// What no handler gets to see is told to OnRefused: here a line of an access log,
// without its beginning, which has the client and the time.
func ExampleServer_onRefused() {
	refused := make(chan lb.Event, 1)
	server := &lb.Server{OnRefused: func(e lb.Event) { refused <- e }}
	defer server.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	go server.Serve(ln)

	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer client.Close()
	fmt.Fprint(client, "GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\nUser-Agent: nc\r\n\r\n")
	e := <-refused
	_, line, _ := strings.Cut(string(e.AppendCombined(nil)), "] ")
	fmt.Print(line)
	fmt.Println(e.Err)
	// Output:
	// "GET /a HTTP/1.1" 400 15 "-" "nc"
	// lb: 400: http1: malformed message: want one Host field
}
