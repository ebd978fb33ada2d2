package mysqltest

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/pem"
	"slices"
)

// First bytes of what is said during caching_sha2_password. See
// https://dev.mysql.com/doc/dev/mysql-server/latest/page_caching_sha2_authentication_exchanges.html.
const (
	moreData    = 1
	askForKey   = 2
	fastSuccess = 3
	fullNeeded  = 4
)

// cachingAuth checks the proof of caching_sha2_password. As with a real server,
// the first login of an account since the start must give the password itself,
// in TLS or encrypted with the server's public key; later ones prove that they
// know it.
func (c *conn) cachingAuth(l login, password string, scramble []byte) (bool, error) {
	if len(l.proof) == 0 {
		return password == "", nil
	}
	if _, cached := c.s.loggedIn.Load(l.user); cached && subtle.ConstantTimeCompare(cachingProof(password, scramble), l.proof) == 1 {
		c.write([]byte{moreData, fastSuccess})
		return true, nil
	}
	c.write([]byte{moreData, fullNeeded})
	if err := c.flush(); err != nil {
		return false, err
	}
	given, err := c.read(handshakeBytes)
	if err != nil {
		return false, err
	}
	if !c.tls {
		if given, err = c.decryptPassword(given, scramble); err != nil {
			return false, err
		}
	}
	ok := subtle.ConstantTimeCompare(append([]byte(password), 0), given) == 1
	if _, known := c.s.conf.Users[l.user]; ok && known { // so that there is an entry for each account at most
		c.s.loggedIn.Store(l.user, true)
	}
	return ok, nil
}

// decryptPassword reads the password of a client that has asked for the public
// key, since it has no TLS.
func (c *conn) decryptPassword(request, scramble []byte) ([]byte, error) {
	if !slices.Equal(request, []byte{askForKey}) {
		return nil, nil // a password in the open is as good as none
	}
	key, err := c.s.key()
	if err != nil {
		return nil, err
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	c.write(append([]byte{moreData}, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})...))
	if err := c.flush(); err != nil {
		return nil, err
	}
	sealed, err := c.read(handshakeBytes)
	if err != nil {
		return nil, err
	}
	given, err := rsa.DecryptOAEP(sha1.New(), rand.Reader, key, sealed, nil)
	if err != nil {
		return nil, nil // what cannot be decrypted is a wrong password
	}
	for i := range given {
		given[i] ^= scramble[i%len(scramble)]
	}
	return given, nil
}

// newKey makes the key for passwords of clients without TLS.
func newKey() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) }

// cachingProof is SHA256(password) XOR SHA256(SHA256(SHA256(password)), scramble).
func cachingProof(password string, scramble []byte) []byte {
	one := sha256.Sum256([]byte(password))
	two := sha256.Sum256(one[:])
	mix := sha256.Sum256(append(append([]byte(nil), two[:]...), scramble...))
	subtle.XORBytes(one[:], one[:], mix[:])
	return one[:]
}
