package lb

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palisade-go/palisade/internal/memnet"
)

// TestExpectContinue: the client is asked for its body when the backend asks,
// once, and not before.
func TestExpectContinue(t *testing.T) {
	asked := make(chan struct{})
	r := newRig(t, PoolConfig{}, ProxyConfig{}, nil, rawBackend(t, func(c *conn) {
		if h, _ := c.reqHead(); !strings.Contains(h, "Expect: 100-continue\n") {
			t.Errorf("the backend sees\n%s", h)
		}
		<-asked
		c.send("HTTP/1.1 100 Continue\n\nHTTP/1.1 103 Early Hints\nLink: </a>\n\n")
		body := make([]byte, 5)
		io.ReadFull(c.r, body)
		c.send("HTTP/1.1 200 OK\nContent-Length: 5\n\n" + string(body))
	}))
	client := dialRaw(t, r.addr)
	client.send("POST / HTTP/1.1\nHost: h\nExpect: 100-continue\nContent-Length: 5\n\n")
	client.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if b, err := client.r.ReadByte(); err == nil {
		t.Fatalf("the client was sent %q before the backend asked", b)
	}
	client.SetReadDeadline(time.Now().Add(10 * time.Second))
	close(asked)
	if got, want := client.head(), "HTTP/1.1 100 Continue\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := client.head(), "HTTP/1.1 103 Early Hints\nLink: </a>\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	client.send("hello")
	if res, body := client.response("POST"); res.StatusCode != 200 || body != "hello" {
		t.Errorf("%d %q", res.StatusCode, body)
	}
	if e := r.event(); e.RequestBytes != 5 || e.ResponseBytes != 5 {
		t.Errorf("event %+v", e)
	}
}

// If the backend answers without asking, the body is not asked for.
func TestExpectRefused(t *testing.T) {
	for _, connection := range []string{"close", "keep-alive"} {
		r := newRig(t, PoolConfig{}, ProxyConfig{}, nil, rawBackend(t, func(c *conn) {
			c.reqHead()
			c.send("HTTP/1.1 417 No\nConnection: " + connection + "\nContent-Length: 4\n\nnope")
			if n, _ := io.Copy(io.Discard, c.r); n != 0 {
				t.Errorf("the backend got %d bytes of a body it refused", n)
			}
		}))
		client := dialRaw(t, r.addr)
		client.send("POST / HTTP/1.1\nHost: h\nExpect: 100-continue\nContent-Length: 5\n\n")
		if got := client.head(); !strings.HasPrefix(got, "HTTP/1.1 417 ") || !strings.Contains(got, "Connection: close\n") {
			t.Errorf("got %q, want 417 and the end of the connection", got)
		}
		if e := r.event(); e.RequestBytes != 0 || e.Err != nil {
			t.Errorf("event %+v", e)
		}
	}
}

// A backend that knows nothing of 100 waits for the body: the client is told to
// send it after a while.
func TestExpectIgnoredByBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, ProxyConfig{}, nil, http.NotFoundHandler())
		old := memnet.Listen(addrA)
		b.network[addrA].Close()
		b.network[addrA] = old
		go func() {
			nc, err := old.Accept()
			if err != nil {
				return
			}
			defer nc.Close()
			c := &conn{t, nc, bufio.NewReader(nc)}
			c.reqHead()
			io.ReadFull(c.r, make([]byte, 5))
			c.send("HTTP/1.0 200 OK\n\nold")
		}()
		nc, err := b.front.DialContext(t.Context(), "tcp", "")
		if err != nil {
			t.Fatal(err)
		}
		client := &conn{t, nc, bufio.NewReader(nc)}
		start := time.Now()
		client.send("POST / HTTP/1.1\nHost: h\nExpect: 100-continue\nContent-Length: 5\n\n")
		if got, want := client.head(), "HTTP/1.1 100 Continue\n"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if d := time.Since(start); d != continueWait {
			t.Errorf("told to go on after %v, want %v", d, continueWait)
		}
		client.send("hello")
		if res, body := client.response("POST"); res.StatusCode != 200 || body != "old" {
			t.Errorf("%d %q", res.StatusCode, body)
		}
		nc.Close()
		old.Close()
	})
}

// A backend that has answered without asking does not ask later, however long
// its response takes.
func TestExpectRefusedSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, ProxyConfig{}, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			http.NewResponseController(w).EnableFullDuplex() // or the server asks for the body
			w.WriteHeader(http.StatusForbidden)
			w.(http.Flusher).Flush()
			time.Sleep(4 * continueWait)
			io.WriteString(w, "no")
		}))
		nc, err := b.front.DialContext(t.Context(), "tcp", "")
		if err != nil {
			t.Fatal(err)
		}
		client := &conn{t, nc, bufio.NewReader(nc)}
		client.send("POST / HTTP/1.1\nHost: h\nExpect: 100-continue\nContent-Length: 5\n\n")
		if got := client.head(); !strings.HasPrefix(got, "HTTP/1.1 403 ") {
			t.Errorf("got %q", got)
		}
		want := "2\r\nno\r\n0\r\n\r\n"
		rest := make([]byte, len(want))
		if _, err := io.ReadFull(client.r, rest); string(rest) != want || err != nil {
			t.Errorf("then %q, %v, want %q", rest, err, want)
		}
		nc.Close() // the server waits for the body that it has not asked for
		if e := <-b.events; e.RequestBytes != 0 {
			t.Errorf("event %+v", e)
		}
	})
}

func TestInterimResponses(t *testing.T) {
	backend := rawBackend(t, func(c *conn) {
		for {
			if _, ok := c.reqHead(); !ok {
				return
			}
			c.send("HTTP/1.1 100 Continue\n\nHTTP/1.1 103 Early Hints\nLink: </a>\nConnection: X-Hop\nX-Hop: 1\nKeep-Alive: 1\n\n" +
				"HTTP/1.1 200 OK\nContent-Length: 2\nX-Final: 1\n\nok")
		}
	})
	r := newRig(t, PoolConfig{}, ProxyConfig{}, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-Middleware", "1")
			next.ServeHTTP(w, r)
		})
	}, backend)
	client := dialRaw(t, r.addr)
	client.send("GET / HTTP/1.1\nHost: h\n\n")
	for _, want := range []string{"HTTP/1.1 100 Continue\n", "HTTP/1.1 103 Early Hints\nLink: </a>\n"} {
		if got := client.head(); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	res, _ := client.response("GET")
	if res.StatusCode != 200 || res.Header.Get("X-Middleware") != "1" || res.Header.Get("X-Final") != "1" || res.Header.Get("Link") != "" {
		t.Errorf("%d %v", res.StatusCode, res.Header)
	}
	old := dialRaw(t, r.addr)
	old.send("GET / HTTP/1.0\nHost: h\n\n")
	if got := old.head(); !strings.HasPrefix(got, "HTTP/1.0 200 OK\n") {
		t.Errorf("a client of HTTP/1.0 got %q", got)
	}
}

func TestInterimResponsesAreBounded(t *testing.T) {
	r := newRig(t, PoolConfig{}, ProxyConfig{}, nil, rawBackend(t, func(c *conn) {
		c.reqHead()
		for range interimMax + 5 {
			if _, err := io.WriteString(c, "HTTP/1.1 102 Processing\r\n\r\n"); err != nil {
				return
			}
		}
		io.Copy(io.Discard, c.r)
	}))
	client := dialRaw(t, r.addr)
	client.send("GET / HTTP/1.1\nHost: h\n\n")
	for range interimMax {
		client.head()
	}
	if res, _ := client.response("GET"); res.StatusCode != 502 {
		t.Errorf("status %d", res.StatusCode)
	}
	if e := r.event(); e.Attempts != 1 {
		t.Errorf("%d attempts after a part of a response", e.Attempts)
	}
}

// A backend may tell each second that it is still at work.
func TestInterimResponsesGoOn(t *testing.T) {
	const beats = 50
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, ProxyConfig{}, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for range beats {
				time.Sleep(time.Second)
				w.WriteHeader(http.StatusProcessing)
			}
		}))
		seen := 0
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(int, textproto.MIMEHeader) error { seen++; return nil },
		})
		req, _ := http.NewRequestWithContext(ctx, "GET", "http://h/", nil)
		res, err := b.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != 200 || seen != beats {
			t.Errorf("status %d after %d interim responses, want 200 after %d", res.StatusCode, seen, beats)
		}
	})
}

func TestTrailers(t *testing.T) {
	type sent struct{ header, trailer http.Header }
	got := make(chan sent, 1)
	r := newRig(t, PoolConfig{}, ProxyConfig{}, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		got <- sent{r.Header, r.Trailer.Clone()}
		if r.URL.Path == "/announced" {
			w.Header().Set("Trailer", "X-Sum")
		}
		io.WriteString(w, "body")
		w.(http.Flusher).Flush() // or there is a length, and no place for a trailer
		if r.URL.Path == "/announced" {
			w.Header().Set("X-Sum", "1")
		} else {
			w.Header().Set(http.TrailerPrefix+"X-Late", "2")
		}
	}))
	for _, c := range []struct{ path, announce, want string }{
		{"/announced", "Trailer: X-In, X-Forwarded-For\n", "X-Sum: [1]"},
		{"/late", "", "X-Late: [2]"},
	} {
		client := dialRaw(t, r.addr)
		client.send("POST " + c.path + " HTTP/1.1\nHost: h\n" + c.announce + "Transfer-Encoding: chunked\n\n3\nabc\n0\nX-In: yes\nX-Forwarded-For: 6.6.6.6\nClient_Cert: c\n\n")
		s := <-got
		if v := s.trailer.Get("X-In"); v != "yes" || len(s.trailer) != 1 {
			t.Errorf("%s: the backend sees the trailer %v", c.path, s.trailer)
		}
		res, body := client.response("POST")
		var have []string
		for k, v := range res.Trailer {
			have = append(have, fmt.Sprintf("%s: %v", k, v))
		}
		if body != "body" || strings.Join(have, ";") != c.want {
			t.Errorf("%s: body %q, trailer %q, want %q", c.path, body, have, c.want)
		}
	}
}

// TestStreaming: each part reaches the client before the backend sends the next,
// whether the length is known or not, and the head before any part.
func TestStreaming(t *testing.T) {
	step := make(chan struct{})
	r := newRig(t, PoolConfig{}, ProxyConfig{}, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/known":
			w.Header().Set("Content-Length", "15")
		case "/events":
			w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
		}
		if r.URL.Path != "/known" {
			w.(http.Flusher).Flush()
			<-step
		}
		for i := range 3 {
			fmt.Fprintf(w, "part%d", i)
			w.(http.Flusher).Flush()
			<-step
		}
	}))
	for _, path := range []string{"/known", "/unknown", "/events"} {
		res, err := r.server.Client().Get(r.server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		if path != "/known" {
			step <- struct{}{}
		}
		buf := make([]byte, 5)
		for i := range 3 {
			if _, err := io.ReadFull(res.Body, buf); err != nil || string(buf) != fmt.Sprint("part", i) {
				t.Fatalf("%s: part %d: %q, %v", path, i, buf, err)
			}
			step <- struct{}{}
		}
		if rest, err := io.ReadAll(res.Body); err != nil || len(rest) != 0 {
			t.Errorf("%s: then %q, %v", path, rest, err)
		}
		res.Body.Close()
	}
}

// TestResponseBeforeTheEndOfTheRequest: a backend may answer while the client
// still sends, and both go on.
func TestResponseBeforeTheEndOfTheRequest(t *testing.T) {
	r := newRig(t, PoolConfig{}, ProxyConfig{}, nil, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		w.WriteHeader(200)
		rc.Flush()
		lines := bufio.NewScanner(r.Body)
		for lines.Scan() {
			fmt.Fprintf(w, "echo %s\n", lines.Text())
			rc.Flush()
		}
	}))
	pr, pw := io.Pipe()
	req, _ := http.NewRequestWithContext(t.Context(), "POST", r.server.URL, pr)
	res, err := r.server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewReader(res.Body)
	for i := range 3 {
		fmt.Fprintf(pw, "line %d\n", i)
		if got, err := lines.ReadString('\n'); err != nil || got != fmt.Sprintf("echo line %d\n", i) {
			t.Fatalf("%q, %v", got, err)
		}
	}
	pw.Close()
	if _, err := lines.ReadString('\n'); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

// TestEarlyAnswerEndsTheConnection: what follows a body that nobody has read
// must not be taken for a request.
func TestEarlyAnswerEndsTheConnection(t *testing.T) {
	r := newRig(t, PoolConfig{}, ProxyConfig{}, nil, rawBackend(t, func(c *conn) {
		c.reqHead()
		c.send("HTTP/1.1 200 OK\nContent-Length: 2\n\nok")
		io.Copy(io.Discard, c.r)
	}))
	client := dialRaw(t, r.addr)
	client.send("POST / HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\n\n")
	if got := client.head(); !strings.Contains(got, "Connection: close\n") {
		t.Fatalf("got %q, want the end of the connection", got)
	}
	client.send("zz\nGET /smuggled HTTP/1.1\nHost: h\n\n")
	rest, _ := io.ReadAll(client.r)
	if string(rest) != "ok" {
		t.Errorf("then %q, want the body only", rest)
	}
	r.event()
	if n := r.pool.Status()[0].Requests; n != 1 {
		t.Errorf("the backend got %d requests", n)
	}
}

// TestHTTP2Front: a request as gRPC makes it, with trailers and interim
// responses, from a client of HTTP/2.
func TestHTTP2Front(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Header.Get("Te") != "trailers" || r.Trailer.Get("X-In") != "1" {
			t.Errorf("the backend sees TE %q, trailer %v", r.Header.Get("Te"), r.Trailer)
		}
		w.Header().Set("Link", "</a>")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Trailer", "Grpc-Status")
		w.Write(body)
		w.Header().Set("Grpc-Status", "0")
	}))
	defer backend.Close()
	pool := poolOf(t, PoolConfig{Backends: []BackendConfig{{URL: backend.URL}}}, 0)
	proxy, err := NewProxy(ProxyConfig{Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewUnstartedServer(proxy)
	front.EnableHTTP2 = true
	front.StartTLS()
	defer front.Close()
	var hints []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		hints = append(hints, fmt.Sprint(code, h["Link"]))
		return nil
	}})
	for range 2 { // twice, so that a connection is used again
		hints = nil
		req, _ := http.NewRequestWithContext(ctx, "POST", front.URL, io.MultiReader(strings.NewReader("hello")))
		req.Header.Set("Te", "trailers")
		req.Header.Set("Expect", "100-continue")
		req.Trailer = http.Header{"X-In": {"1"}}
		res, err := front.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || string(body) != "hello" || res.ProtoMajor != 2 || res.Trailer.Get("Grpc-Status") != "0" {
			t.Errorf("%s: body %q, %v, trailer %v", res.Proto, body, err, res.Trailer)
		}
		if got := strings.Join(hints, " "); got != "100 [] 103 [</a>]" {
			t.Errorf("interim responses %q", got)
		}
	}
}
