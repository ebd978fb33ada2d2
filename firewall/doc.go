// Package firewall enforces one policy over connections and HTTP requests: an
// ordered list of rules over addresses, ports, what else packets have, TLS
// handshakes, methods, hosts, paths, headers and verified identities; limits on
// what each client may do; and bans, which offenders bring upon themselves.
//
// # Which type when
//
//   - [Policy] is the list: [Rule] values over a [Match], [SizeLimit], [Limit] and
//     [Escalation] values, and a default, which is to drop. It is plain data;
//     [New] checks it, and [ParsePolicy] and [Policy.String] turn it from and into
//     text.
//   - [PrefixSet] is a list of networks that changes while policies use it.
//   - [Firewall] enforces. [Firewall.Listener] closes connections before TLS,
//     [Firewall.TLSConfig] ends handshakes, [Firewall.Handler] answers requests
//     with 403, 413, 414, 429 or 431. Use all: a connection costs a fraction of a
//     TLS handshake and a request.
//   - [Firewall.Update] changes the policy, and [Firewall.Ban] shuts out one
//     network for some time, whatever the policy; [Firewall.SaveBans] keeps
//     bans for the next start. [Firewall.Offence] tells escalations what the
//     application saw.
//   - [Firewall.DecidePacket], [Firewall.DecideConn], [Firewall.DecideHello] and
//     [Firewall.DecideRequest] say what would happen, and why, without doing it;
//     the functions named Explain show every step.
//   - [Limiter] is what limits are made of, for other things than requests.
//   - [Firewall.ClientIP] tells the application who the client is.
//
// # Policies as text
//
// A policy is written one statement a line, the first rule that matches first:
//
//	# What is known to be bad, and what our own networks are.
//	set bad file "lists/bad.txt"
//	set ours { 10.0.0.0/8, 2001:db8::/32 }
//
//	drop bad if source @bad
//	monitor reject inner if path-prefix /-/ and not source @ours
//	accept ping if icmp-type 8 or icmpv6-type { 128, 133-136 }
//	accept web if protocol tcp and destination-port { 80, 443 }
//	size uploads body 10485760 header 16384 if path-prefix /upload
//	limit per-client rate 10 burst 30 if host *.example.com
//	limit api key header X-API-Key window 1m burst 100 announce
//	limit open unit concurrent burst 64
//	escalate scan on { inner, per-client } offences 5 window 1m ban 10m max-ban 24h
//	default drop
//
// A rule is its verdict, its ID, and after "if" its match; "monitor" before it
// is its mode. The parts of size, limit and escalate are the fields of [SizeLimit],
// [Limit] and [Escalation], in any order: body, header, fields and url; rate,
// burst, window, unit, key, clients, ipv4-bits, ipv6-bits, announce and shared; on,
// offences, window, ban, max-ban, clients, ipv4-bits and ipv6-bits. Times are as in
// Go, such as 1m30s. Predicates have the names of their
// functions in small letters, and one argument or several in braces; prefixes
// may be @ and the name of a set; header, cookie and query have a name and, after
// "is", values; cross-origin may have origins after "except"; tcp-flags S/SA looks
// at S and A and wants S alone. "Not" binds
// before "and", and that before "or"; parentheses group. A value of other
// characters than letters, digits and _.:/*+-~=% is quoted as in Go. A line ends
// where it ends, but for one with an open parenthesis or brace; # starts a
// comment.
//
// # One policy at several depths
//
//	depth    sees                                            enforced by
//	packet   addresses, protocol, ports, flags, types        a packet filter
//	accept   addresses and ports                             Listener
//	tls      those, SNI and JA4                              TLSConfig
//	request  all of it, and the client behind a proxy        Handler
//
// Where a predicate has a value, and where it is unknown (?) or does not match (-):
//
//	predicate                                packet  accept  tls  request
//	source, country, asn                     yes     yes     yes  yes, of the client
//	destination, ports, protocol             yes     yes     yes  yes
//	tcp-flags, fragment, established, icmp   yes     of the packet that opened it
//	sni, ja4                                 ?       ?       yes  yes, - without TLS
//	method, host, path, header, cookie, …    ?       ?       ?    yes
//
// The source is unknown before the request if the peer is a trusted proxy, and in
// a later fragment everything is that the first has.
//
// A depth evaluates the same rules with three values, and refuses only if the
// policy refuses whatever the unseen part is. A rule that accepts by path, say,
// therefore lets through every packet and connection that it might apply to, and
// the handler decides about the requests. Put rules that refuse by address first
// to have them take effect early.
//
// A connection or request is judged like the packet that opened it, as if it
// were seen next to it: whole, with SYN, and not established. A packet that is
// neither TCP nor UDP carries no request, and no predicate about requests
// matches it. Packets in the reverse direction are none of a policy's business,
// but the answers to what a server itself asks for are: accept what is
// established. [ParsePacket] says how packets are read.
//
// Drop and Reject both refuse. A connection is reset and a request is answered
// with 403 either way.
//
// Handler does not go through the rules one after the other. It looks up the path,
// host, method, header and network of a request, and asks only the rules that want
// these, so that many such rules cost little more than few. Asked of every request
// is a rule that wants nothing of the kind: one by a named set or a country only, a
// negation, or alternatives of which one is such. A decision asks a named set once
// about an address, so that no two rules see it before and after a change.
//
// # Who the client is
//
// The client is the peer, unless the peer is one of Config.TrustedProxies. Then
// the header in which these name the client is read from its right end: each
// entry was added by the proxy to its right, and counts only if that proxy is
// trusted too. The first address that is not trusted is the client, or the
// leftmost one if all are. What a client forges stands to the left of that, and
// is never read.
//
// An entry may have a port, and an IPv6 address may be in brackets. Anything
// else there, "unknown" for example, a zone, more than 100 entries, or a peer
// without an IP address, means that nobody can tell who the client is. Such a
// request gets 403, since to guess would let a client choose who it is taken
// for.
//
// # How paths are read
//
// Servers differ about what a path means, and a rule is worth nothing if the
// server behind reads "/x/..;/%2d/" as the "/-/" that it forbids. A path is
// therefore read in every way that results from these steps in any order and
// number: percent-decoding, turning backslashes into slashes, dropping ";x"
// parameters, merging slashes, resolving dot segments, ending the path at ? or
// #. If the readings do not agree, or if the path is the pattern but for upper
// and lower case or a slash at the end, the match is unknown. A rule that
// refuses then applies, and one that accepts does not.
//
// A path is unknown to every pattern if it has control characters or overlong
// UTF-8, or if it has more than 32 readings, or more than one and over 2,048
// bytes. Beyond that a rule that must not be dodged by a server's own ideas
// (Windows' short names, URL rewriting, method override headers) belongs to a
// policy that accepts what is known and drops the rest.
//
// # Limits
//
// A [Limit] counts requests that rules accepted, or connections, by client network
// rather than address or by a [Key], in memory that is allocated once. Under more
// clients than it has room for it forgets those closest to having all their
// tokens, so that a client over its limit stays over it. Each limit counts at one
// depth, since packets are not connections, nor those requests. One that is shared
// counts in a [Store] for many processes; while that does not answer each process
// keeps its part of the limit.
//
// An [Escalation] bans a client that is refused again and again, for longer each
// time, and then the networks around it. A ban also ends the connections that the
// client has.
//
// # Slow clients
//
// Listener gives the first head of a connection a deadline and resets a connection
// whose client takes nothing in; Handler ends a body that drips. What remains for
// [http.Server] are ReadHeaderTimeout, for heads inside TLS and after the first,
// IdleTimeout, and streams of HTTP/2 whose flow control a client does not open, for
// which there is WriteTimeout.
//
//	fw, err := firewall.New(firewall.Config{Policy: firewall.Policy{
//		Rules:   []firewall.Rule{{ID: "inner", Match: firewall.PathPrefix("/-/"), Verdict: firewall.Reject}},
//		Limits:  []firewall.Limit{{ID: "per-client", Rate: 10, Burst: 30}},
//		Default: firewall.Accept,
//	}})
//	if err != nil {
//		log.Fatal(err)
//	}
//	ln, err := net.Listen("tcp", ":80")
//	if err != nil {
//		log.Fatal(err)
//	}
//	log.Fatal(http.Serve(fw.Listener(ln), fw.Handler(app)))
package firewall
