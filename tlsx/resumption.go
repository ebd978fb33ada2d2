package tlsx

import (
	"crypto/tls"
	"slices"
)

// bindNames has sessions of TLS 1.2 resumed only for the name that they began with,
// within a policy, too (RFC 6066, section 3, where it is a MUST). Under TLS 1.3 a
// client may resume for another name that the certificate covers (RFC 8446,
// section 4.6.1).
func bindNames(c *tls.Config) {
	c.WrapSession = func(cs tls.ConnectionState, session *tls.SessionState) ([]byte, error) {
		if cs.Version == tls.VersionTLS12 {
			session.Extra = append(session.Extra, sessionName(cs))
		}
		return c.EncryptTicket(cs, session)
	}
	c.UnwrapSession = func(ticket []byte, cs tls.ConnectionState) (*tls.SessionState, error) {
		session, err := c.DecryptTicket(ticket, cs)
		if err != nil || session == nil || cs.Version != tls.VersionTLS12 {
			return session, err
		}
		if !slices.ContainsFunc(session.Extra, func(name []byte) bool { return string(name) == string(sessionName(cs)) }) {
			return nil, nil
		}
		return session, nil
	}
}

// sessionName is the normal form of the name that a client has asked for, empty
// for a client that asks for none.
func sessionName(cs tls.ConnectionState) []byte {
	name, err := normalName(cs.ServerName)
	if err != nil {
		return nil
	}
	return []byte(name)
}
