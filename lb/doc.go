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
//	log.Fatal(http.ListenAndServe(":80", proxy))
//
// # Which type when
//
//   - [Pool] is the set of servers: what they are (Set), which of them may get
//     requests (checks, Drain), how they do (Status), and the connections to
//     them. One Pool may serve several proxies.
//   - [Proxy] forwards HTTP requests to a Pool. It runs under any http.Server,
//     behind any middleware.
//   - [Strategy] is the way to choose: [LeastRequest], the default, suits
//     servers and requests that are unequal; [WeightedRoundRobin] keeps exact
//     shares; [RoundRobin] is for servers that are all alike. Others can write
//     their own.
//   - [Pool.Pick] is for those who send something else than HTTP.
//   - [Event] is the record of a request, for logs and metrics; [StateChange] is
//     the news of a backend.
//
// # What is promised
//
// A request is sent to another backend only if it is safe to repeat, never after
// a part of a response has come. A response
// that breaks off is aborted, so that the client sees that it did, and never
// completed or added to. A client that goes away is no failure of a backend.
//
// Fields that end at the proxy are removed in both directions, in interim
// responses too, before the proxy sets its own, so that no client can have those
// removed (RFC 9110, section 7.6.1). What a client claims about itself, in
// Forwarded, X-Forwarded-*, X-Real-Ip, Client-Cert, Client-Cert-Chain and
// X-Forwarded-Client-Cert, is removed in every spelling that some server takes
// for the same field; the first three stay if they come from a trusted proxy.
// Framing is made anew and never copied.
//
// Requests take no lock but the strategy's. What changes, such as health, is
// published as a snapshot.
//
// # Limits
//
// Backends speak HTTP/1.1, or HTTP/2 over TLS if PoolConfig.TLS offers it.
// A field that a backend's response names in Connection beside "close" is passed
// on, as net/http hides that Connection from the proxy. There is no buffering of bodies, no budget for retries, no affinity of a client
// to a backend, and no timeout for a response once it has begun: a client that
// goes away ends it. CONNECT is answered with 501. An idle connection that the
// backend closes at the moment at which a request with a body is sent costs that
// request a 502, since it may have been taken; keep PoolConfig.IdleTimeout below
// the backends' own.
//
// All types are safe for concurrent use unless they say otherwise.
package lb
