package mysqltest

import (
	"bufio"
	"crypto/rand"
	"crypto/sha1"
	"crypto/subtle"
	"crypto/tls"
	"encoding/binary"
	"net"
	"time"
)

// Capability flags of the protocol.
const (
	capLongPassword   = 1 << 0
	capFoundRows      = 1 << 1
	capLongFlag       = 1 << 2
	capConnectWithDB  = 1 << 3
	capProtocol41     = 1 << 9
	capTLS            = 1 << 11
	capTransactions   = 1 << 13
	capSecureConn     = 1 << 15
	capMultiResults   = 1 << 17
	capPSMultiResults = 1 << 18
	capPluginAuth     = 1 << 19
	capConnectAttrs   = 1 << 20
	capLenencAuth     = 1 << 21
	capSessionTrack   = 1 << 23
	capDeprecateEOF   = 1 << 24

	capServer = capLongPassword | capFoundRows | capLongFlag | capConnectWithDB | capProtocol41 |
		capTransactions | capSecureConn | capMultiResults | capPSMultiResults | capPluginAuth |
		capConnectAttrs | capLenencAuth | capSessionTrack | capDeprecateEOF
)

const (
	nativePassword  = "mysql_native_password"
	cachingPassword = "caching_sha2_password"
	// handshakeTime bounds the time a client may take to log in.
	handshakeTime = 10 * time.Second
	// handshakeBytes bounds a packet of a client that has not logged in.
	handshakeBytes = 64 << 10
	// utf8mb4 is the collation utf8mb4_general_ci.
	utf8mb4 = 45
	binaryC = 63
)

// login is what the client says of itself.
type login struct {
	caps           uint32
	user, database string
	proof          []byte
	plugin         string
}

// greet logs the client in. It has answered the client if that fails.
func (c *conn) greet() error {
	c.SetDeadline(time.Now().Add(handshakeTime))
	scramble := newScramble()
	c.write(c.s.greeting(c.id, scramble))
	if err := c.flush(); err != nil {
		return err
	}
	payload, err := c.read(handshakeBytes)
	if err != nil {
		return err
	}
	if c.s.conf.TLS != nil && isTLSRequest(payload) {
		if payload, err = c.encrypt(); err != nil {
			return err
		}
	}
	l, err := parseLogin(payload)
	if err != nil {
		c.sendError(errorf(1043, "08S01", "Bad handshake"))
		c.flush()
		return err
	}
	if l.plugin != "" && l.plugin != c.s.conf.AuthPlugin {
		if l.proof, err = c.switchAuth(scramble); err != nil {
			return err
		}
	}
	c.caps = l.caps & capServer
	if err := c.authenticate(l, scramble); err != nil {
		c.sendError(asError(err))
		c.flush()
		return err
	}
	c.user, c.database = l.user, l.database
	c.sendOK(Result{}, 0)
	c.SetDeadline(time.Time{})
	return c.flush()
}

// switchAuth asks a client that began with another method to use ours.
func (c *conn) switchAuth(scramble []byte) ([]byte, error) {
	b := append([]byte{0xfe}, c.s.conf.AuthPlugin...)
	b = append(append(append(b, 0), scramble...), 0)
	c.write(b)
	if err := c.flush(); err != nil {
		return nil, err
	}
	return c.read(handshakeBytes)
}

// newScramble returns twenty random bytes without a zero, which would end it.
func newScramble() []byte {
	b := make([]byte, 20)
	rand.Read(b)
	for i := range b {
		b[i] = b[i]%94 + '!'
	}
	return b
}

// greeting is the server's first packet, HandshakeV10.
func (s *Server) greeting(id uint32, scramble []byte) []byte {
	caps := uint32(capServer)
	if s.conf.TLS != nil {
		caps |= capTLS
	}
	b := append([]byte{10}, s.conf.Version...)
	b = binary.LittleEndian.AppendUint32(append(b, 0), id)
	b = append(append(b, scramble[:8]...), 0)
	b = append(b, byte(caps), byte(caps>>8), utf8mb4)
	b = binary.LittleEndian.AppendUint16(b, statusAutocommit)
	b = append(b, byte(caps>>16), byte(caps>>24), byte(len(scramble)+1))
	b = append(b, make([]byte, 10)...)
	b = append(append(b, scramble[8:]...), 0)
	return append(append(b, s.conf.AuthPlugin...), 0)
}

// isTLSRequest recognises the head of a handshake response that stands alone,
// and asks for TLS before the rest.
func isTLSRequest(payload []byte) bool {
	return len(payload) == 4+4+1+23 && binary.LittleEndian.Uint32(payload)&capTLS != 0
}

// encrypt does TLS and reads the handshake response under it.
func (c *conn) encrypt() ([]byte, error) {
	// What the client sent after its request may be in the reader already.
	t := tls.Server(buffered{c.Conn, c.r}, c.s.conf.TLS)
	if err := t.Handshake(); err != nil {
		return nil, err
	}
	c.tls = true
	c.r, c.w = bufio.NewReader(t), bufio.NewWriterSize(t, 16<<10)
	return c.read(handshakeBytes)
}

// buffered is a connection of which some bytes have been read already.
type buffered struct {
	net.Conn
	r *bufio.Reader
}

func (b buffered) Read(p []byte) (int, error) { return b.r.Read(p) }

// NetConn returns the connection below.
func (b buffered) NetConn() net.Conn { return b.Conn }

// parseLogin reads the packet HandshakeResponse41.
func parseLogin(payload []byte) (login, error) {
	d := decoder{b: payload}
	l := login{caps: uint32(d.uint(4))}
	if l.caps&capProtocol41 == 0 || l.caps&capSecureConn == 0 {
		return login{}, errMalformed
	}
	d.bytes(4 + 1 + 23) // the client's packet limit, its collation, reserved bytes
	l.user = d.cstring()
	if l.caps&capLenencAuth != 0 {
		l.proof = d.lenencBytes()
	} else {
		l.proof = d.bytes(d.uint(1))
	}
	if l.caps&capConnectWithDB != 0 {
		l.database = d.cstring()
	}
	if l.caps&capPluginAuth != 0 {
		l.plugin = d.cstring()
	}
	if l.caps&capConnectAttrs != 0 && !d.bad && len(d.b) > 0 {
		d.lenencBytes()
	}
	if d.bad {
		return login{}, errMalformed
	}
	return l, nil
}

// authenticate checks the client's proof. An unknown user takes as long as a
// wrong password.
func (c *conn) authenticate(l login, scramble []byte) error {
	password, known := c.s.conf.Users[l.user]
	var ok bool
	var err error
	if c.s.conf.AuthPlugin == cachingPassword {
		ok, err = c.cachingAuth(l, password, scramble)
	} else {
		ok = subtle.ConstantTimeCompare(nativeProof(password, scramble), l.proof) == 1
	}
	if err != nil || known && ok {
		return err
	}
	using := "YES"
	if len(l.proof) == 0 {
		using = "NO"
	}
	return errorf(1045, "28000", "Access denied for user '%s'@'127.0.0.1' (using password: %s)", l.user, using)
}

// nativeProof is SHA1(password) XOR SHA1(scramble, SHA1(SHA1(password))), and
// nothing for an empty password.
func nativeProof(password string, scramble []byte) []byte {
	if password == "" {
		return nil
	}
	one := sha1.Sum([]byte(password))
	two := sha1.Sum(one[:])
	mix := sha1.Sum(append(append([]byte(nil), scramble...), two[:]...))
	subtle.XORBytes(one[:], one[:], mix[:])
	return one[:]
}
