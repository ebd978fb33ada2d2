package tlsx

import (
	"bytes"
	"crypto/tls"
	"slices"
	"sync"
)

// sessionsMax bounds how many sessions with servers are kept for resumption.
const sessionsMax = 64

// sessionCache keeps the sessions of a [Backend] for as long as neither its
// authorities nor its certificate change. A session carries both from when it
// began: after a change the server's old certificate might fail for the first
// connection, and the server would go on seeing the client's old one.
//
// A ticket may come long after the handshake, and one that comes in a session that
// is resumed still carries the server's certificate of when that began. So it is
// kept only if a server has shown that certificate since the change.
type sessionCache struct {
	b Backend

	mu       sync.Mutex // guards the rest
	roots    *Roots
	cert     []byte // DER of the client's certificate
	sessions tls.ClientSessionCache
	shown    [][]byte // DER of servers' certificates, the latest last
}

func newSessionCache(b Backend) *sessionCache { return &sessionCache{b: b} }

// Get implements tls.ClientSessionCache.
func (c *sessionCache) Get(key string) (*tls.ClientSessionState, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heedChange()
	return c.sessions.Get(key)
}

// Put implements tls.ClientSessionCache.
func (c *sessionCache) Put(key string, session *tls.ClientSessionState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heedChange()
	if session == nil || c.hasShown(session) {
		c.sessions.Put(key, session)
	}
}

// show notes the certificate that a server has shown in a full handshake.
func (c *sessionCache) show(leaf []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heedChange()
	if slices.ContainsFunc(c.shown, func(der []byte) bool { return bytes.Equal(der, leaf) }) {
		return
	}
	if c.shown = append(c.shown, leaf); len(c.shown) > sessionsMax {
		c.shown = slices.Delete(c.shown, 0, 1)
	}
}

// hasShown says whether the certificate that a session carries is among those
// shown. The encoding of a session is crypto/tls's own, and has the certificate in
// it as it is.
func (c *sessionCache) hasShown(session *tls.ClientSessionState) bool {
	_, state, err := session.ResumptionState()
	if err != nil || state == nil {
		return false
	}
	encoded, err := state.Bytes()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(c.shown, func(der []byte) bool { return bytes.Contains(encoded, der) })
}

// heedChange forgets everything if the authorities or the certificate are no
// longer those of before.
func (c *sessionCache) heedChange() {
	roots, cert := c.b.Roots.Roots(), []byte(nil)
	if c.b.Cert != nil {
		if pair, err := c.b.Cert.Certificate(&tls.ClientHelloInfo{}); err == nil && pair != nil && len(pair.Certificate) > 0 {
			cert = pair.Certificate[0]
		}
	}
	if c.sessions == nil || c.roots != roots || !bytes.Equal(c.cert, cert) {
		c.roots, c.cert, c.sessions, c.shown = roots, cert, tls.NewLRUClientSessionCache(sessionsMax), nil
	}
}
