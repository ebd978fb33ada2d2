// Package palisade is the root of a library of web-infrastructure building
// blocks that a Go program embeds instead of running and configuring a load
// balancer, a firewall, a certificate client, a metrics sidecar and a database
// proxy beside it.
//
// The blocks are packages of their own, and none of them imports another:
//
//   - lb: balancing strategies, pools with health checks, a reverse proxy.
//   - firewall: one policy, enforced for packets, connections and requests.
//   - tlsx: certificates, mutual TLS, and client identity across a proxy.
//   - qps: request rates, latencies and errors, exact to the event.
//   - dbrouter: read/write splitting for MySQL and MariaDB on a plain *sql.DB.
//
// They meet in the caller's main function, through standard types only:
// [net/http.Handler], [net.Listener], [*crypto/tls.Config], [database/sql.DB].
// The program in examples/threeserver composes all five.
//
// This package itself exports nothing.
package palisade
