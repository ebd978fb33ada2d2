// Package acme gets certificates from a public authority by ACME (RFC 8555) and
// keeps them renewed: a [Source] is a tlsx.CertSource. It is a layer over
// certmagic, with none of that package's global defaults and with certificates
// for the configured names only.
//
// The authority asks whether the names are yours, and the answers travel
// through servers that exist anyway:
//
//   - HTTP-01 on port 80: wrap the plain HTTP handler in [Source.HTTPHandler].
//   - TLS-ALPN-01 on port 443: a tlsx.Terminator with the Source among its
//     sources answers.
//
// Either is enough. With [DNS] the answer is a DNS record instead, which needs no
// server and is the one way to certificates for wildcards.
//
// [OnDemand] gets certificates for names that first turn up in a handshake, for
// those whom a function of yours lets in and within limits. [Config] also has
// external accounts, profiles and authorities to fall back to.
//
// Several processes that share a Storage share certificates,
// issue each once, and answer for one another; [SharedStorage] keeps what else a
// cluster shares in the same place.
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
// There are no certificates for IP addresses. Configuring a Source means agreeing
// to the terms of the authority. After a failure certmagic waits for a minute or
// longer, which certificates that live for few minutes do not survive.
//
// Two things of certmagic outlast Close: its idle connection to the authority,
// until that ends it, and one goroutine for each pair of authority and account
// in the process, which limits the rate of orders.
package acme
