package dbrouter

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"
)

// wire is a network connection with a script for the one side and a record of
// the other.
type wire struct {
	net.Conn
	in     *strings.Reader
	out    bytes.Buffer
	closed bool
}

func (w *wire) Read(b []byte) (int, error)  { return w.in.Read(b) }
func (w *wire) Write(b []byte) (int, error) { return w.out.Write(b) }
func (w *wire) Close() error                { w.closed = true; return nil }

// greet returns a tracker whose server has sent its first packet.
func greet(t *testing.T, packet string, conf *tls.Config) (*tracker, *wire) {
	t.Helper()
	w := &wire{in: strings.NewReader(packet)}
	tr := newTracker(w, conf)
	if n, err := tr.Read(make([]byte, len(packet)+1)); err != nil || n != len(packet) {
		t.Fatal(n, err)
	}
	return tr, w
}

func greetingOf(version string, caps uint32) string {
	low, high := string([]byte{byte(caps), byte(caps >> 8)}), string([]byte{byte(caps >> 16), byte(caps >> 24)})
	return frame(0, "\x0a"+version+"\x00"+"\x07\x00\x00\x00"+"12345678\x00"+low+"\xff\x02\x00"+high+"\x15"+strings.Repeat("\x00", 10)+"123456789012\x00")
}

// response is what a driver answers a greeting with.
func response(caps uint32) string {
	return frame(1, string(binary.LittleEndian.AppendUint32(nil, caps))+strings.Repeat("\x00", 28)+"app\x00secret")
}

const serverCaps = cap41 | capSessionTrack | capDeprecateEOF | capTLS

// TestLogin: reports are asked for where they can be read, and nothing else is
// changed of what the driver says.
func TestLogin(t *testing.T) {
	for _, c := range []struct {
		about           string
		server, driver  uint32
		sent            uint32
		on, eof, strays bool
	}{
		{"all", serverCaps, cap41 | capDeprecateEOF, cap41 | capDeprecateEOF | capSessionTrack, true, true, false},
		{"results end the old way", serverCaps, cap41, cap41 | capSessionTrack, true, false, false},
		{"a server that reports nothing", serverCaps &^ capSessionTrack, cap41 | capDeprecateEOF, cap41 | capDeprecateEOF, false, true, false},
		{"compressed", serverCaps, cap41 | capDeprecateEOF | capCompress, cap41 | capDeprecateEOF | capCompress, false, true, false},
		{"TLS of the driver's own", serverCaps, cap41 | capDeprecateEOF | capTLS, cap41 | capDeprecateEOF | capTLS, false, false, true},
		{"an old protocol", serverCaps &^ cap41, cap41, cap41, false, false, true},
	} {
		tr, w := greet(t, greetingOf("10.11.6-MariaDB", c.server), nil)
		b := []byte(response(c.driver))
		if n, err := tr.Write(b); err != nil || n != len(b) {
			t.Errorf("%s: wrote %d of %d bytes, %v", c.about, n, len(b), err)
		}
		if got := w.out.String(); got != response(c.sent) {
			t.Errorf("%s: sent %q, want %q", c.about, got, response(c.sent))
		}
		if string(b) != response(c.driver) {
			t.Errorf("%s: the driver's bytes were changed", c.about)
		}
		if tr.on != c.on || tr.follow.eof != c.eof || tr.follow.lost != c.strays || tr.thread != 7 {
			t.Errorf("%s: on %v, eof %v, lost %v, thread %d", c.about, tr.on, tr.follow.eof, tr.follow.lost, tr.thread)
		}
	}
}

// TestNothingInTheClear: where TLS is wanted and cannot be had, not a byte is sent.
func TestNothingInTheClear(t *testing.T) {
	for _, c := range []struct {
		about, greeting, first string
		is                     error
		says                   string
	}{
		{"a server without TLS", greetingOf("8.0.36", serverCaps&^capTLS), response(cap41), mysql.ErrNoTLS, ""},
		{"an old protocol", greetingOf("8.0.36", serverCaps&^cap41), response(cap41), nil, "not a server that TLS can be asked of"},
		{"an error in place of a greeting", frame(0, "\xff\x10\x04Too many connections"), response(cap41), nil, "not a server that TLS can be asked of"},
		{"a greeting that is too long", frame(0, "\x0a"+strings.Repeat("x", followLimit)), response(cap41), nil, "not a server that TLS can be asked of"},
		{"a short answer of the driver's", greetingOf("8.0.36", serverCaps), frame(1, "secret"), nil, "not a server that TLS can be asked of"},
		{"TLS within TLS", greetingOf("8.0.36", serverCaps), response(cap41 | capTLS), nil, "BeforeConnect"},
	} {
		tr, w := greet(t, c.greeting, new(tls.Config))
		_, err := tr.Write([]byte(c.first))
		if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.about, err)
		}
		if tr.err != err || !w.closed || w.out.Len() != 0 {
			t.Errorf("%s: kept %v, closed %v, sent %q", c.about, tr.err, w.closed, w.out.String())
		}
	}
}

// TestLoginGoesOn after TLS: the driver's packets have one number more.
func TestLoginGoesOn(t *testing.T) {
	w := new(wire)
	tr := newTracker(w, nil)
	tr.begun, tr.on, tr.follow.renumber = true, true, 1
	b := []byte(frame(3, "abc"))
	if _, err := tr.Write(b); err != nil || w.out.String() != frame(4, "abc") || string(b) != frame(3, "abc") {
		t.Errorf("sent %q, %v; the driver's bytes are %q", w.out.String(), err, b)
	}
	w.out.Reset()
	// Logged in: a command in two pieces, and the end of it with another.
	all := frame(0, "\x03SELECT 1") + frame(0, "\x01")
	for _, piece := range []string{all[:7], all[7:]} {
		if _, err := tr.Write([]byte(piece)); err != nil {
			t.Fatal(err)
		}
	}
	if w.out.String() != all || tr.follow.renumber != 0 || tr.follow.lost || tr.follow.state != followNothing {
		t.Errorf("sent %q, %+v", w.out.String(), tr.follow)
	}
}

// TestOwnTLS: which connections are encrypted in the driver's place.
func TestOwnTLS(t *testing.T) {
	given := new(tls.Config)
	for _, c := range []struct {
		about string
		conf  mysql.Config
		want  string // the name of the server; empty: none
	}{
		{"none", mysql.Config{Net: "tcp", Addr: "db:1"}, ""},
		{"given", mysql.Config{Net: "tcp", Addr: "db:1", TLS: given}, "db"},
		{"given with a name", mysql.Config{Net: "tcp", Addr: "db:1", TLS: &tls.Config{ServerName: "other"}}, "other"},
		{"by name", mysql.Config{Net: "tcp", Addr: "db:1", TLSConfig: "true"}, "db"},
		{"switched off", mysql.Config{Net: "tcp", Addr: "db:1", TLSConfig: "false"}, ""},
		{"preferred", mysql.Config{Net: "tcp", Addr: "db:1", TLSConfig: "preferred"}, ""},
		{"given, with a way back to plain text", mysql.Config{Net: "tcp", Addr: "db:1", TLS: given, AllowFallbackToPlaintext: true}, ""},
	} {
		got, err := ownTLS(&c.conf)
		if err != nil || (got != nil) != (c.want != "") || got != nil && (got.ServerName != c.want || got.InsecureSkipVerify) {
			t.Errorf("%s: %+v, %v", c.about, got, err)
		}
	}
	if given.ServerName != "" {
		t.Error("the caller's configuration was changed")
	}
	if _, err := ownTLS(&mysql.Config{Net: "tcp", Addr: "db:1", TLSConfig: "unheard-of"}); err == nil {
		t.Error("a configuration that nobody knows is taken for none")
	}
}
