package tlsx

import (
	"bytes"
	"crypto/tls"
	"sync"
)

// sessionsMax bounds how many sessions with servers are kept for resumption.
const sessionsMax = 64

// sessionCache keeps the sessions of a [Backend] for as long as neither its
// authorities nor its certificate change. A session carries both from when it
// began: after a change the server's old certificate might fail for the first
// connection, and the server would go on seeing the client's old one.
type sessionCache struct {
	b Backend

	mu       sync.Mutex // guards the rest
	roots    *Roots
	cert     []byte // DER of the client's certificate
	sessions tls.ClientSessionCache
}

func newSessionCache(b Backend) *sessionCache { return &sessionCache{b: b} }

// Get implements tls.ClientSessionCache.
func (c *sessionCache) Get(key string) (*tls.ClientSessionState, bool) {
	return c.present().Get(key)
}

// Put implements tls.ClientSessionCache.
func (c *sessionCache) Put(key string, session *tls.ClientSessionState) {
	c.present().Put(key, session)
}

// present returns the sessions that fit the authorities and the certificate of
// this moment.
func (c *sessionCache) present() tls.ClientSessionCache {
	roots, cert := c.b.Roots.Roots(), []byte(nil)
	if c.b.Cert != nil {
		if pair, err := c.b.Cert.Certificate(&tls.ClientHelloInfo{}); err == nil && pair != nil && len(pair.Certificate) > 0 {
			cert = pair.Certificate[0]
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sessions == nil || c.roots != roots || !bytes.Equal(c.cert, cert) {
		c.roots, c.cert, c.sessions = roots, cert, tls.NewLRUClientSessionCache(sessionsMax)
	}
	return c.sessions
}
