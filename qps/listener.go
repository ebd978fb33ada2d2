package qps

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
)

// Listener measures the connections that ln accepts: how many there were, how
// many are open, and their bytes, under the given name. Put it below TLS to
// count what goes over the wire. Names beyond Config.MaxRoutes share the entry
// "other". The connections have a NetConn method, and keep splice and sendfile.
func (m *Meter) Listener(name string, ln net.Listener) net.Listener {
	l, _ := m.listeners.find(name)
	return &meteredListener{Listener: ln, m: m, l: l}
}

// connections is what is recorded of the listeners of one name.
type connections struct {
	shards shards[connectionShard]
}

type connectionShard struct {
	accepted atomic.Uint64
	open     atomic.Int64
	in, out  atomic.Uint64
	_        [lineBytes - 32]byte
}

func newConnections(string) *connections { return new(connections) }

func (c *connections) snapshot(name string) ListenerSnapshot {
	s := ListenerSnapshot{Listener: name}
	for sh := range c.shards.all() {
		// In this order no more are seen open than were accepted.
		s.Open += sh.open.Load()
		s.Accepted += sh.accepted.Load()
		s.BytesIn += sh.in.Load()
		s.BytesOut += sh.out.Load()
	}
	return s
}

type meteredListener struct {
	net.Listener
	m *Meter
	l *connections
}

func (l *meteredListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	sh := l.l.shards.at(l.m.picker.pick())
	sh.accepted.Add(1)
	sh.open.Add(1)
	return &meteredConn{Conn: c, shard: sh}, nil
}

// meteredConn counts in one shard, however its goroutines move.
type meteredConn struct {
	net.Conn
	shard  *connectionShard
	closed atomic.Bool
}

// NetConn returns the connection below, past which nothing is counted.
func (c *meteredConn) NetConn() net.Conn { return c.Conn }

// SyscallConn implements [syscall.Conn] if the connection below does. It is for who
// waits for bytes; what is read past Read is not counted.
func (c *meteredConn) SyscallConn() (syscall.RawConn, error) {
	sc, ok := c.Conn.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, err
	}
	return rawConn{raw}, nil
}

// rawConn hides what else package net's has: package os would send files and splice
// past the connection, where nothing is counted.
type rawConn struct{ syscall.RawConn }

func (c *meteredConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.shard.in.Add(uint64(max(n, 0)))
	return n, err
}

func (c *meteredConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.shard.out.Add(uint64(max(n, 0)))
	return n, err
}

// ReadFrom keeps sendfile and splice.
func (c *meteredConn) ReadFrom(src io.Reader) (n int64, err error) {
	if rf, ok := c.Conn.(io.ReaderFrom); ok {
		n, err = rf.ReadFrom(src)
	} else {
		n, err = io.Copy(struct{ io.Writer }{c.Conn}, src)
	}
	c.shard.out.Add(uint64(max(n, 0)))
	return n, err
}

// WriteTo keeps splice where this connection is the source.
func (c *meteredConn) WriteTo(dst io.Writer) (n int64, err error) {
	if wt, ok := c.Conn.(io.WriterTo); ok {
		n, err = wt.WriteTo(dst)
	} else {
		n, err = io.Copy(dst, struct{ io.Reader }{c.Conn})
	}
	c.shard.in.Add(uint64(max(n, 0)))
	return n, err
}

// CloseWrite closes the sending side, where the connection can do so.
func (c *meteredConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

func (c *meteredConn) Close() error {
	err := c.Conn.Close()
	if c.closed.CompareAndSwap(false, true) {
		c.shard.open.Add(-1)
	}
	return err
}
