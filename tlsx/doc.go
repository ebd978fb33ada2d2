// Package tlsx serves and verifies TLS on both sides of a load balancer:
// certificates at the edge, mutual TLS to the servers behind it, and the
// client's verified identity carried across, so that an application sees the
// same identity whether the client connected to it directly or through a proxy.
//
// # Which type when
//
//   - [Terminator] accepts TLS. It serves certificates from any [CertSource]
//     under a list of [Policy] values, each with its own names, protocol
//     versions and client authentication. A name that no policy covers gets an
//     alert, never a default.
//   - [CA] is an internal certificate authority in a folder, for the hops that
//     no public authority certifies: balancer to server, service to service,
//     and client certificates. Its leaves live for a day and renew themselves;
//     [CA.SignCSR] signs keys that stay on other hosts.
//   - [BackendTLS] makes the *tls.Config with which a proxy connects to a
//     server: the server must prove a pinned identity, and the proxy proves its
//     own.
//   - [Forward] and [Receive] carry the identity of the client across the proxy
//     in the Client-Cert header of RFC 9440. [IdentityFrom] reads it.
//   - [RedirectHTTPS] and [HSTS] lead browsers from HTTP to HTTPS.
//   - tlsx/acme, a package of its own, is a CertSource that gets certificates
//     from a public authority, and keeps them renewed.
//   - [CertEvent] is what happens to certificates: Config.OnCert hears of it from
//     every source, and [Terminator.Certificates] lists what is served.
//
// The smallest server reads a certificate from files and follows them:
//
//	cert, err := tlsx.Files("cert.pem", "key.pem", nil)
//	if err != nil { … }
//	term, err := tlsx.New(tlsx.Config{Certs: []tlsx.CertSource{cert}})
//	if err != nil { … }
//	err = http.Serve(term.Listener(ln), tlsx.HSTS{}.Handler(app))
//
// # What is guarded
//
// A policy authorises clients in VerifyConnection, which also runs when a
// session is resumed, and its session ticket keys are derived from the policy,
// its authorities and a secret, so that a ticket issued under one policy opens
// nothing under another (golang/go #77217). Changing the authorities makes new
// keys too: clients of the old set begin anew. Under TLS 1.2 a session is resumed
// only for the name that it began with.
//
// [SharedTickets] lets a client that moves to another server of a cluster resume
// its session there. The keys are sealed in the cluster's [Storage], such as
// [DirStorage] or the one of tlsx/acme; a storage that fails stalls neither
// handshakes nor the rotation of keys.
//
// [ECH] hides names from the network, and [UnknownNames] bounds what it costs when
// clients ask for names that nobody has.
//
// A forged Client-Cert header is removed in every spelling that some server
// reads as the same header, with underscores and in any case, before the proxy
// sets its own; and a server believes the header only from a peer whose
// certificate proves that it is the proxy.
//
// A validator of TLS-ALPN-01 challenges passes without a client certificate, but
// gets to see a challenge certificate only, and no connection.
//
// Files that change are taken over as a whole or not at all: half a file, a key
// that does not match yet or an expired certificate never replaces what is good.
//
// # To replace an authority
//
// Without a failed handshake, the authority of both sides of mutual TLS is
// replaced in four steps, each of which is seen everywhere, within 250 ms of the
// rename of a file, before the next is taken: both sides trust the old and the new
// one; the servers get leaves of the new one; the clients do; both sides trust the
// new one alone. Clients come after servers, because a [BackendTLS] begins new
// sessions when its own certificate changes, and a session carries the server's
// certificate from when it began.
//
// # What it does not do
//
// Revocation lists are read from files ([CRLFile]), not fetched, and OCSP is not
// asked. The internal authority revokes nothing; its leaves are short-lived
// instead.
//
// The package needs the standard library only. It starts no goroutine that
// lasts: one that looks at the storage of [SharedTickets] ends within seconds.
// All its types are safe for concurrent use.
package tlsx
