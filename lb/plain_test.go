package lb

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// plainRequests are parts that requests are made of, at random.
var plainRequests = struct{ methods, targets, hosts, fields []string }{
	methods: []string{"GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PURGE"},
	targets: []string{"/", "/a/b?x=1", "/%2e%2F..//b?", "/\xc3\xa4?q=\xff", "http://other.example/p?q", "/a;b=c?d&e=%zz", "/%zz"},
	hosts:   []string{"h.example", "h.example:8080", "[::1]:80", "H.Example", "b\xc3\xbccher.example", ""},
	fields: []string{
		"Accept: */*", "Cookie: a=1", "Cookie: b=2", "User-Agent: test", "User-Agent:", "Accept-Encoding: gzip",
		"Connection: keep-alive", "connection: Keep-Alive", "Connection: close", "Connection: X-A, close", "Connection: upgrade", "Connection: te",
		"X-A: 1", "x-a: 2", "Keep-Alive: timeout=5", "Te: trailers", "TE: gzip", "Upgrade: websocket", "Upgrade: h2c",
		"Proxy-Connection: keep-alive", "Proxy-Authorization: Basic eA==", "Proxy: x", "HTTP2-Settings: AAA", "Max-Forwards: 3", "Max-Forwards: 0",
		"X-Forwarded-For: 1.2.3.4", "X_Forwarded_For: 1.2.3.4", "X-Forwarded-Host: x", "Forwarded: for=1.2.3.4", "X-Real-IP: 1.2.3.4",
		"X-Request-Id: from-client", "X_Request_Id: x", "Traceparent: 00-0123456789abcdef0123456789abcdef-0123456789abcdef-01",
		"Traceparent: bad", "Tracestate: a=1", "Tracestate: b=2",
		"Client-Cert: :AAAA:", "Client_Cert: :AAAA:", "X-Forwarded-Client-Cert: x", "Content_Length: 4", "Transfer_Encoding: chunked",
		"Content-Length: 0", "Trailer: X-T", "Expect: 100-continue", "Empty:", "X-Bin: \x80\xff", "X-Wide:  \t two words\t ",
	},
}

var plainResponses = []string{
	"200 OK\nContent-Length: 2\nContent-Type: text/plain\n\nok",
	"200 OK\nContent-Length: 2\n\nok",
	"200 Fine\nContent-Length: 2\nConnection: keep-alive\nKeep-Alive: timeout=5\nSet-Cookie: a=1\nSet-Cookie: b=2\nset-cookie: c=3\n\nok",
	"200 OK\nContent-Length: 2\nConnection: X-A, close\nX-A: 1\nX-B: 2\n\nok",
	"200 OK\nTransfer-Encoding: chunked\nEtag: \"x\"\netag: \"y\"\n\n3\nabc\n0\n\n",
	"200 OK\nTransfer-Encoding: chunked\nTrailer: X-T, X-U\n\n3\nabc\n0\nX-T: t\n\n",
	"200 OK\nTransfer-Encoding: chunked\n\n3\nabc\n0\nX-Unannounced: t\n\n",
	"200 OK\nContent-Type: text/event-stream; x\nDate: Thu, 01 Jan 1970 00:00:00 GMT\nConnection: close\n\ndata: 1\n\n",
	"204 No Content\nX-A: 1\nContent-Type: text/plain\n\n",
	"304 Not Modified\nEtag: \"x\"\nContent-Type: text/plain\nContent-Length: 10\n\n",
	"404 Not Found\nContent-Length: 0\nServer: x\nEndpoint-Load-Metrics: TEXT named_metrics.in_flight=1\nProxy-Authenticate: Basic\n\n",
	"200 OK\nContent-Length: 2\nBad Name: x\nX-Bin: \x80\n\nok",
	"200 OK\nContent-Length: 2\nBad: \x01\n\nok",
	"200 OK\nContent-Length: 2\nContent-Length: 2\n\nok",
	"999 What\nContent-Length: 2\nContent-Encoding: gzip\nTrailer: X-A\nUpgrade: h2c\n\nok",
	"103 Early Hints\nLink: <x>\n\nHTTP/1.1 200 OK\nContent-Length: 2\n\nok",
	"101 Switching Protocols\nConnection: upgrade\nUpgrade: websocket\n\nbytes",
}

// varies is what is not the same in two requests: the backend's address, and ids
// that were made.
var varies = regexp.MustCompile(`127\.0\.0\.1:\d+|X-Request-Id: [0-9a-f]{32}\b|00-[0-9a-f]{32}-[0-9a-f]{16}-02`)

// passing says that it does not look at the header.
type passing struct{ http.ResponseWriter }

func (w passing) Unwrap() http.ResponseWriter { return w.ResponseWriter }
func (passing) PassesHeader()                 {}

// nosy says so too, but looks.
type nosy struct{ passing }

func (w nosy) WriteHeader(status int) {
	if w.Header().Get("Etag") != "" {
		w.Header().Set("X-Nosy", fmt.Sprint(len(w.Header()["Set-Cookie"])))
	}
	w.ResponseWriter.WriteHeader(status)
}

// TestPlainIsTheSame: what goes straight from the client to a backend and back is
// what goes the long way with hooks that change nothing, field by field, through
// both servers, with and without something that the middleware has set.
func TestPlainIsTheSame(t *testing.T) {
	const rounds = 1500
	var mu sync.Mutex
	var response string
	got := make(map[string]string) // from the backend to what it got
	newBackend := func(name string) string {
		return rawBackend(t, func(c *conn) {
			for {
				head, ok := c.reqHead()
				if !ok {
					return
				}
				mu.Lock()
				got[name] = head
				text := response
				mu.Unlock()
				c.send("HTTP/1.1 " + text)
				if strings.Contains(text, "\nConnection: close") || strings.HasPrefix(text, "101") {
					return
				}
			}
		})
	}
	middleware := func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Accept") != "" {
				w.Header().Set("Server", "front")
				w.Header().Add("Set-Cookie", "front=1")
				w.Header().Set("Etag", "front")
			}
			if r.Header.Get("Cookie") != "" {
				w = passing{w}
			}
			if r.Header.Get("User-Agent") != "" {
				w = nosy{passing{w}}
			}
			next.ServeHTTP(w, r)
		})
	}
	newFront := func(name string, long, ours bool) string {
		pool := poolOf(t, PoolConfig{Backends: []BackendConfig{{URL: "http://" + newBackend(name)}}}, 0)
		conf := ProxyConfig{Pool: pool, Retries: -1, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}
		if ours {
			conf.RequestID, conf.Trace = "X-Request-Id", new(Trace)
		}
		if long {
			conf.Rewrite = func(*httputil.ProxyRequest) {}
			conf.ModifyResponse = func(*http.Response) error { return nil }
		}
		proxy, err := NewProxy(conf)
		if err != nil {
			t.Fatal(err)
		}
		if proxy.headsPlain == long || proxy.repliesPlain == long {
			t.Fatalf("long %v, and plain %v, %v", long, proxy.headsPlain, proxy.repliesPlain)
		}
		if ours {
			return startServer(t, &Server{Handler: middleware(proxy)}).addr
		}
		srv := httptest.NewServer(middleware(proxy))
		t.Cleanup(srv.Close)
		return srv.Listener.Addr().String()
	}
	type way struct{ name, addr string }
	pairs := [][2]way{
		{{"plain, net/http", newFront("plain, net/http", false, false)}, {"long, net/http", newFront("long, net/http", true, false)}},
		{{"plain, ours", newFront("plain, ours", false, true)}, {"long, ours", newFront("long, ours", true, true)}},
	}
	ask := func(w way, method, request string) (client, backend string) {
		mu.Lock()
		delete(got, w.name)
		mu.Unlock()
		c := dialRaw(t, w.addr)
		defer c.Close()
		c.send(request)
		res, err := http.ReadResponse(c.r, &http.Request{Method: method})
		for err == nil && res.StatusCode < 200 && res.StatusCode != 101 {
			client += fmt.Sprintf("%d %v\n", res.StatusCode, res.Header)
			res, err = http.ReadResponse(c.r, &http.Request{Method: method})
		}
		if err != nil {
			return client + "no response", ""
		}
		if res.Header.Get("Date") != "Thu, 01 Jan 1970 00:00:00 GMT" {
			res.Header.Del("Date")
		}
		var body strings.Builder
		_, err = bufio.NewReader(res.Body).WriteTo(&body)
		client += fmt.Sprintf("%s close %v %v\n%q %v trailer %v", res.Status, res.Close, res.Header, body.String(), err, res.Trailer)
		mu.Lock()
		defer mu.Unlock()
		// Without a Host the backend's own address takes its place.
		lines := strings.Split(varies.ReplaceAllString(strings.TrimSuffix(got[w.name], "\n"), "VARIES"), "\n")
		slices.Sort(lines[1:])
		return client, strings.Join(lines, "\n")
	}
	random := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	pick := func(from []string) string { return from[random.IntN(len(from))] }
	forwarded := 0
	for range rounds {
		method := pick(plainRequests.methods)
		var request strings.Builder
		request.WriteString(method + " " + pick(plainRequests.targets) + " HTTP/1." + pick([]string{"1", "1", "1", "0"}) + "\nHost: " + pick(plainRequests.hosts) + "\n")
		for range random.IntN(5) {
			request.WriteString(pick(plainRequests.fields) + "\n")
		}
		mu.Lock()
		response = pick(plainResponses)
		mu.Unlock()
		pair := pairs[random.IntN(len(pairs))]
		client, backend := ask(pair[0], method, request.String()+"\n")
		wantClient, wantBackend := ask(pair[1], method, request.String()+"\n")
		if client != wantClient {
			t.Errorf("%q answered by %q: %s gives\n%s\nand %s\n%s", request.String(), response, pair[0].name, client, pair[1].name, wantClient)
		}
		if backend != wantBackend {
			t.Errorf("%q: %s sends\n%s\nand %s\n%s", request.String(), pair[0].name, backend, pair[1].name, wantBackend)
		}
		if backend != "" {
			forwarded++
		}
		if t.Failed() {
			return
		}
	}
	if forwarded < rounds/3 {
		t.Errorf("%d of %d requests were forwarded", forwarded, rounds)
	}
}
