// Package lb balances requests among servers: a set of backends with health and
// a way to choose among them, and a proxy in front of them that is an
// [http.Handler].
//
//	pool, err := lb.NewPool(lb.PoolConfig{
//		Backends: []lb.BackendConfig{{URL: "http://10.0.0.5:8080"}, {URL: "http://10.0.0.6:8080"}},
//		Health:   &lb.HealthCheck{Path: "/healthz"},
//	})
//	if err != nil {
//		log.Fatal(err)
//	}
//	defer pool.Close()
//	proxy, err := lb.NewProxy(lb.ProxyConfig{Pool: pool})
//	if err != nil {
//		log.Fatal(err)
//	}
//	ln, err := net.Listen("tcp", ":80")
//	if err != nil {
//		log.Fatal(err)
//	}
//	server := &lb.Server{Handler: proxy}
//	log.Fatal(server.Serve(ln))
//
// # Which type when
//
//   - [Pool] is the set of servers: what they are (Set, Upsert, Remove, or a
//     [Resolver]), which of them may get requests (checks, outliers, priorities,
//     Drain), how many at a time, how they do (Status), and the connections to
//     them. One Pool may serve several proxies.
//   - [HealthCheck] asks the servers how they are, by HTTP, TCP, gRPC or a
//     function; [OutlierDetection] looks at what becomes of the requests, as a
//     circuit breaker does. They find different faults: use both.
//   - [AdaptiveLimit] finds out how many requests a server can have at a time, and
//     keeps the rest in the pool's queue or sends it elsewhere.
//   - [DNS], [SRV], [File] and [ResolverFunc] find the servers.
//   - [Proxy] forwards HTTP requests to a Pool. It runs under any http.Server,
//     behind any middleware.
//   - [Server] is in front of a Proxy, or of any handler, in place of an
//     http.Server: a strict HTTP/1.1 server with bounds on what a slow client may
//     hold, and less work for each request than net/http's.
//   - [TCPProxy] forwards connections of any protocol to a Pool, TLS unopened by
//     the name that a client asks for ([TCPRoute]); [UDPProxy], datagrams.
//   - [ProxyProtocolListener] is for a server of any kind behind another proxy: its
//     connections have the clients' addresses.
//   - [Strategy] is the way to choose; see below. The default is [LeastRequest].
//     Others can write their own.
//   - [Affinity] keeps a client at one server; [RetryBudget] bounds what retries
//     may cost.
//   - [Hedge] asks a second server if the first is slow; [Mirror] sends copies of
//     requests elsewhere; [Trace] sees to W3C trace contexts.
//   - [Pool.RoundTripper] is for HTTP clients in this program; [Pool.Pick] and
//     [Pool.Acquire] are for those who send something else than HTTP.
//   - [Event] is the record of a request, for logs and metrics, of Proxy's OnDone and
//     of Server's OnRefused; [StateChange] is the news of a backend.
//
// # Strategies
//
//	strategy               looks at                  choose it for
//	LeastRequest           requests in flight, slow  the default: one balancer or a few
//	                       answers
//	RoundRobin             nothing                   servers and requests that are all alike
//	WeightedRoundRobin     weights                   exact shares
//	Random                 weights                   very many short requests
//	PowerOfTwoChoices      requests in flight of 2   several balancers, very many backends
//	PeakEWMA               latency and requests in   several balancers, backends that stall
//	                       flight of 2
//	HotColdLexicographic   what backends report      many balancers before the same backends
//	First                  order                     a server and its spare
//	Maglev                 a key                     a key to the same backend, even shares
//	RingHash               a key                     the same, and keys that are dear to move
//	Rendezvous             a key                     the same, up to some dozens of backends
//	BoundedLoad            a key, requests in        keys of which some are hot
//	                       flight
//
// RoundRobin and First do not look at weights, and HotColdLexicographic does only
// when it chooses whom to ask. The key of the last four is the client's address, a
// header field, a cookie, the path or what a function says: see [HashKey].
//
// The default was chosen by a simulation of backends of which each fifth is
// three times slower and all have spells in which they are four times slower
// (TestSimulationTable, built with the tag "figures"). These are the times
// within which 99 of 100 requests were answered, in ms, at 85 % of the capacity;
// to serve one takes 10 ms:
//
//	                               balancers × backends
//	                               1×10   20×10   100×100
//	Random, RoundRobin             grows without end
//	PowerOfTwoChoices               127     318       845
//	PeakEWMA                         83     247       527
//	LeastRequest without latency    113     168       792
//	LeastRequest                     72      87       395
//	HotColdLexicographic, reports    91     116        78
//	HotColdLexicographic, probes     98     146        66
//
// # What is promised
//
// A request is sent to another backend only if it is safe to repeat, never after
// a part of a response has come. A response that breaks off is aborted, so that
// the client sees that it did, and never completed or added to. A client that goes
// away is no failure of a backend.
//
// Fields that end at the proxy are removed in both directions, in interim
// responses too, before the proxy sets its own, so that no client can have those
// removed (RFC 9110, section 7.6.1). What a client claims about itself, in
// Forwarded, X-Forwarded-*, X-Real-Ip, Client-Cert, Client-Cert-Chain and
// X-Forwarded-Client-Cert, is removed in every spelling that some server takes
// for the same field; the first three stay if they come from a trusted proxy.
// Framing is made anew and never copied. What a server lets through of which others
// may make something else is refused: a target with a fragment, and over HTTP/2 a
// method, target or host that is none or that contradicts another.
//
// A request without a body goes to a backend of HTTP/1.1 straight from the client's
// head, and the head of its response to the client, without a copy that a hook could
// change: of requests Rewrite, Hedge and Mirror need one, of responses
// ModifyResponse, RetryStatus and Affinity. What is sent is the same. Behind a
// [Server] that nothing wraps, the head of a response does not even become a map.
// Nor does it under a ResponseWriter that has, beside Unwrap, a method PassesHeader
// without arguments: by that it says that it never looks at the header.
//
// No pick waits for a lock, but for that of a WeightedRoundRobin whose order takes
// thousands of requests to come round; the end of a request takes one for some
// nanoseconds if it brings HotColdLexicographic a report. What changes, such as
// health, is published as a snapshot.
//
// # Limits
//
// [Server] leaves HTTP/2, CONNECT and heads that are too large to net/http, the last
// two with the end of their connection. It refuses what net/http's server takes if
// its end or meaning is not certain: lines without CR, fields that go on in the
// next line, Transfer-Encoding beside Content-Length or in HTTP/1.0, lengths that
// are given twice, versions other than 1.0 and 1.1, more than 1,000 fields. It
// has no CloseNotify; it watches for a client that goes away only once somebody
// has asked for Done, or for Err after some milliseconds. A client that closes only
// its sending side while it waits counts as gone, as with net/http, since nothing tells
// it from one that has closed both. A client that sends its
// next request before it has the response, in a packet of its own, may wait for 10 ms
// more, until the server has found out that it pipelines.
//
// Backends speak HTTP/1.1, HTTP/2 over TLS if PoolConfig.TLS offers it, or HTTP/2
// without TLS if their URL is h2c. What asks for an upgrade goes to the second kind
// by HTTP/1.1, and to the third without. Bodies are kept in memory only, for
// [ProxyConfig].RetryBody and [Mirror]. There is no timeout for a response once it
// has begun: a client that goes away ends it. CONNECT is answered with 501. An idle
// connection that the backend closes at the moment at which a request with a body
// is sent costs that request a 502, since it may have been taken; keep
// PoolConfig.IdleTimeout below the backends' own.
//
// TCPProxy opens no TLS to its backends, and its checks send no PROXY protocol
// header: a backend that wants one sees connections without. Of a ClientHello with
// an encrypted one in it, the outer name counts. UDPProxy speaks no PROXY protocol.
//
// All types are safe for concurrent use unless they say otherwise.
package lb
