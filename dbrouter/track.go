package dbrouter

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/go-sql-driver/mysql"
)

// tracker is the network connection of a driver that asks the server to report
// the GTID of each write, which go-sql-driver does not, and reads the reports
// along. That makes the position of a write known with its answer.
//
// With TLS the driver would encrypt above it, so the tracker does TLS itself:
// the driver is told nothing of it, the tracker asks the server for TLS before
// it lets the driver's first packet through, and hides the packet that the
// driver did not send by renumbering. It never sends that packet unencrypted.
//
// Its Read and Write belong to one goroutine at a time, as those of the driver
// are; Close may be called at any time.
type tracker struct {
	net.Conn             // plain or TLS; what is read and written
	raw      net.Conn    // what was dialed
	tls      *tls.Config // nil: no TLS, or the driver does it
	follow   follower

	begun bool // the handshake response has been sent
	on    bool // the server reports
	// thread is the server's number for the connection, 0 if it is not known.
	thread uint32
	out    int // bytes of the packet being written still to come
	// framed: it is known where commands and their answers begin.
	framed   bool
	ahead    ahead
	deadline time.Time // of reading, as the driver has set it
	// err is why the handshake failed, where the driver would only know that it
	// did.
	err error
}

func newTracker(raw net.Conn, conf *tls.Config) *tracker {
	return &tracker{Conn: raw, raw: raw, tls: conf, follow: follower{state: followGreeting}}
}

// NetConn returns the connection that was dialed.
func (t *tracker) NetConn() net.Conn { return t.raw }

// Close cuts the connection. It may be called while another goroutine reads.
func (t *tracker) Close() error { return t.raw.Close() }

// SetReadDeadline is part of net.Conn.
func (t *tracker) SetReadDeadline(at time.Time) error {
	t.deadline = at
	return t.Conn.SetReadDeadline(at)
}

// SetDeadline is part of net.Conn.
func (t *tracker) SetDeadline(at time.Time) error {
	t.deadline = at
	return t.Conn.SetDeadline(at)
}

func (t *tracker) Read(b []byte) (int, error) {
	if t.ahead.state == aheadSent && len(b) > 0 {
		n, err := t.readAhead(b)
		if n > 0 || err != nil {
			t.follow.feed(b[:n])
			return n, err
		}
	}
	n, err := t.Conn.Read(b)
	t.follow.feed(b[:n])
	return n, err
}

func (t *tracker) Write(b []byte) (int, error) {
	switch {
	case !t.begun:
		return t.start(b)
	case t.follow.lost && t.follow.renumber == 0 && t.ahead.state != aheadReady:
		return t.Conn.Write(b)
	}
	return t.pass(b)
}

// pass writes packets and looks at their headers.
func (t *tracker) pass(b []byte) (int, error) {
	before := -1 // where a wait belongs
	for rest := b; len(rest) > 0; {
		if t.out > 0 {
			k := min(t.out, len(rest))
			t.out -= k
			rest = rest[k:]
			continue
		}
		if len(rest) < 4 {
			// Never done by the driver.
			t.follow.lost, t.framed = true, false
			break
		}
		if before < 0 && t.ahead.precedes(rest) {
			before = len(b) - len(rest)
		}
		size := int(rest[0]) | int(rest[1])<<8 | int(rest[2])<<16
		switch {
		case rest[3] == 0 && len(rest) > 4:
			t.follow.renumber = 0 // logged in
			if t.on {
				t.follow.command(rest[4])
			}
		case t.follow.renumber != 0:
			// Still logging in. The driver's buffer is not ours to change.
			b = append([]byte(nil), b...)
			at := len(b) - len(rest)
			b[at+3] += t.follow.renumber
			rest = b[at:]
		}
		t.out = size
		rest = rest[4:]
	}
	if before >= 0 {
		return t.sendAhead(b, before)
	}
	return t.Conn.Write(b)
}

// start sends the handshake response, the driver's first packet, with the
// request for reports in it, and TLS before it if that is wanted.
func (t *tracker) start(b []byte) (int, error) {
	g, ok := parseGreeting(t.follow.greeting)
	t.thread = g.thread
	known := ok && g.caps&cap41 != 0 && len(b) >= 4+32 && b[3] == 1
	if !known {
		if t.tls != nil {
			return t.fail(errors.New("dbrouter: not a server that TLS can be asked of"))
		}
		t.begun, t.follow.lost = true, true
		return t.Conn.Write(b)
	}
	own := append([]byte(nil), b...)
	caps := binary.LittleEndian.Uint32(own[4:])
	if caps&capTLS != 0 {
		// The driver is about to encrypt; a second time would be a mistake.
		if t.tls != nil {
			return t.fail(errors.New("dbrouter: TLS is asked for by BeforeConnect, want it in Config.TLS"))
		}
		t.begun, t.follow.lost = true, true
		return t.Conn.Write(b)
	}
	t.on = g.caps&capSessionTrack != 0 && caps&capCompress == 0
	if t.on {
		caps |= capSessionTrack
	}
	t.follow.eof = caps&capDeprecateEOF != 0
	t.framed = t.follow.eof && caps&(capCompress|capZstd|capAttributes) == 0
	t.follow.dialect = mySQL
	if strings.Contains(g.version, "MariaDB") {
		t.follow.dialect = mariaDB
	}
	if t.tls != nil {
		if g.caps&capTLS == 0 {
			return t.fail(mysql.ErrNoTLS)
		}
		caps |= capTLS
	}
	binary.LittleEndian.PutUint32(own[4:], caps)
	if t.tls != nil {
		if err := t.encrypt(own[4 : 4+32]); err != nil {
			return t.fail(err)
		}
		own[3]++
		t.follow.renumber = 1
	}
	t.begun = true
	if _, err := t.Conn.Write(own); err != nil {
		return 0, err
	}
	return len(b), nil
}

// encrypt asks for TLS with the head of the handshake response, and does it.
func (t *tracker) encrypt(head []byte) error {
	if _, err := t.raw.Write(append([]byte{byte(len(head)), 0, 0, 1}, head...)); err != nil {
		return err
	}
	c := tls.Client(t.raw, t.tls)
	if err := c.Handshake(); err != nil {
		return fmt.Errorf("dbrouter: TLS: %w", err)
	}
	t.Conn = c
	return nil
}

func (t *tracker) fail(err error) (int, error) {
	t.err = err
	t.raw.Close()
	return 0, err
}

// checkedTracker is a tracker of a connection of the operating system. By
// SyscallConn the driver finds out whether the server has closed the connection
// while it was idle; without it the driver takes any for alive, and one that
// answers with an error for closed.
type checkedTracker struct {
	*tracker
	syscall.Conn
}

// request is the statement that makes the server report.
func (t *tracker) request() string {
	if t.follow.dialect == mariaDB {
		return "SET SESSION session_track_system_variables = 'last_gtid'"
	}
	return "SET SESSION session_track_gtids = 'OWN_GTID'"
}

// dialKey is the context key under which trackedDial leaves the connection.
type dialKey struct{}

type dialFunc = func(ctx context.Context, network, addr string) (net.Conn, error)

// trackedDial tells the one who connects which network connection was made, for
// its reports, and so that Close can cut it under a statement that runs: a
// driver's connection may not be closed while another goroutine uses it.
func trackedDial(dial dialFunc, network string, conf *tls.Config) dialFunc {
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	return func(ctx context.Context, _, addr string) (net.Conn, error) {
		nc, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		if c, ok := nc.(*net.TCPConn); ok {
			if err := c.SetKeepAlive(true); err != nil {
				nc.Close()
				return nil, err
			}
		}
		t := newTracker(nc, conf)
		if into, ok := ctx.Value(dialKey{}).(**tracker); ok {
			*into = t
		}
		if c, ok := nc.(syscall.Conn); ok {
			return checkedTracker{t, c}, nil
		}
		return t, nil
	}
}

// ownTLS takes TLS over from the driver, where that is as strict as the
// driver's: its "preferred" may fall back to plain text, and then only the
// driver may know that a password is not to be sent so.
func ownTLS(conf *mysql.Config) (*tls.Config, error) {
	if conf.AllowFallbackToPlaintext || conf.TLSConfig == "preferred" {
		return nil, nil
	}
	if conf.TLS == nil {
		switch conf.TLSConfig {
		case "", "false":
			return nil, nil
		}
		// Only the driver knows the configurations registered with it.
		named := mysql.Config{Net: conf.Net, Addr: conf.Addr, TLSConfig: conf.TLSConfig}
		parsed, err := mysql.ParseDSN(named.FormatDSN())
		if err != nil {
			return nil, err
		}
		return parsed.TLS, nil
	}
	own := conf.TLS.Clone()
	if own.ServerName == "" && !own.InsecureSkipVerify {
		if host, _, err := net.SplitHostPort(conf.Addr); err == nil {
			own.ServerName = host
		}
	}
	return own, nil
}
