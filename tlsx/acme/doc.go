// Package acme gets certificates from a public authority by ACME (RFC 8555) and
// keeps them renewed: a [Source] is a tlsx.CertSource. It speaks the protocol
// through acmez, and keeps its certificates, accounts and locks in a
// certmagic.Storage where certmagic has them, with none of that package's global
// state and with certificates for the configured names only.
//
// The authority asks whether the names are yours, and the answers travel
// through servers that exist anyway:
//
//   - HTTP-01 on port 80: wrap the plain HTTP handler in [Source.HTTPHandler].
//   - TLS-ALPN-01 on port 443: a tlsx.Terminator with the Source among its
//     sources answers.
//
// Either is enough. With [DNS] the answer is a DNS record instead, which needs no
// server and is the one way to certificates for wildcards. [PersistentDNS] needs
// a record that somebody sets once, and no access to the zone.
//
// # Which option when
//
//   - [OnDemand] gets certificates for names that first turn up in a handshake,
//     for those whom a function of yours lets in and within limits.
//   - Config.Staging tries a new name where failures do not count.
//   - Config.Fallbacks are authorities to go to when the first does not issue.
//   - Config.Profile chooses what the authority offers, such as certificates for
//     six days; a name can be an IP address (RFC 8738).
//   - [Source.CheckCAA] says whether the DNS permits the authority, and which
//     record to set so that nobody else's account there gets certificates.
//   - [Source.Revoke] replaces a certificate and has the old one revoked.
//
// # Renewal
//
// A certificate is renewed within the window that its authority suggests (RFC
// 9773); without one at two thirds of its life, or half if that is shorter than
// ten days. Whatever the authority says, a quarter of the life is left for things
// to go wrong. A failure is followed by the next attempt after a time that
// doubles but is never more than a twentieth of what is left, so that even
// certificates of a minute outlast a storage or an authority that is away for 20
// seconds. What an authority refuses, as opposed to what does not reach it, is
// repeated slowly, and its Retry-After is heeded.
//
// Several processes that share a Storage share certificates, order each once,
// and answer for one another: a challenge that this process has not begun is
// looked for in the storage, one by one for 20 in a second, and beyond that in a
// list of all that are on, which is read four times in a second at most however
// many ask. A validator waits for that, and is not refused. [SharedStorage] keeps
// what else a cluster shares in the same place.
//
// A certificate that the storage does not take is served all the same, and stored
// later. An expired one is never served: if another process has renewed it, that
// one is.
//
//	source, err := acme.New(acme.Config{
//		Names:   []string{"www.example.com"},
//		Storage: &certmagic.FileStorage{Path: "/var/lib/example/acme"},
//	})
//	if err != nil { … }
//	defer source.Close()
//	term, err := tlsx.New(tlsx.Config{Certs: []tlsx.CertSource{source}})
//	if err != nil { … }
//	go http.Serve(plain, source.HTTPHandler(tlsx.RedirectHTTPS(443)))
//	go http.Serve(term.Listener(secure), app)
//	err = source.Obtain(ctx)
//
// Start the servers first: the authority connects to them while Obtain waits.
//
// # Limits
//
// Configuring a Source means agreeing to the terms of the authority. Every name
// has a certificate of its own. OCSP responses are not stapled: the authorities
// that still have them are few. While the storage is away, or read-only, there
// are no orders, as processes could not agree on who makes them.
package acme
