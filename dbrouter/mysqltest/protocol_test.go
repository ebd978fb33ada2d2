package mysqltest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// rawClient speaks the protocol by hand, for what the driver never sends.
type rawClient struct {
	*wire
	t *testing.T
}

// dialRaw connects and reads the greeting, and returns the scramble.
func dialRaw(t *testing.T, s *Server) (*rawClient, []byte) {
	t.Helper()
	nc, err := net.Dial("tcp", s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(10 * time.Second))
	c := &rawClient{newWire(nc), t}
	b := c.receive()
	d := decoder{b: b}
	if d.uint(1) != 10 || d.cstring() != DefaultVersion {
		t.Fatalf("greeting %q", b)
	}
	d.uint(4)
	scramble := bytes.Clone(d.bytes(8))
	d.bytes(1 + 2 + 1 + 2 + 2 + 1 + 10)
	return c, append(scramble, d.bytes(12)...)
}

func (c *rawClient) receive() []byte {
	c.t.Helper()
	b, err := c.read(maxPayload)
	if err != nil {
		c.t.Fatal(err)
	}
	return b
}

func (c *rawClient) send(payload ...byte) {
	c.write(payload)
	if err := c.flush(); err != nil {
		c.t.Fatal(err)
	}
}

func (c *rawClient) command(com byte, text string) []byte {
	c.t.Helper()
	c.seq = 0
	c.send(append([]byte{com}, text...)...)
	return c.receive()
}

// loginPacket is a HandshakeResponse41.
func loginPacket(caps uint32, proof []byte, plugin string) []byte {
	b := binary.LittleEndian.AppendUint32(nil, caps)
	b = append(b, make([]byte, 4+1+23)...)
	b = append(append(b, DefaultUser...), 0)
	b = append(append(b, byte(len(proof))), proof...)
	return append(append(b, plugin...), 0)
}

const rawCaps = capProtocol41 | capSecureConn | capPluginAuth

func login41(t *testing.T, s *Server, caps uint32) *rawClient {
	t.Helper()
	c, scramble := dialRaw(t, s)
	c.send(loginPacket(rawCaps|caps, nativeProof(DefaultUser, scramble), nativePassword)...)
	if b := c.receive(); b[0] != 0 {
		t.Fatalf("login: %q", b)
	}
	return c
}

func TestAuthSwitch(t *testing.T) {
	s := start(t, Config{})
	c, _ := dialRaw(t, s)
	c.send(loginPacket(rawCaps, make([]byte, 32), "caching_sha2_password")...)
	b := c.receive()
	rest, ok := bytes.CutPrefix(b, append([]byte{0xfe}, nativePassword+"\x00"...))
	if !ok || len(rest) != 21 {
		t.Fatalf("no request to switch: %q", b)
	}
	c.send(nativeProof(DefaultUser, rest[:20])...)
	if b := c.receive(); b[0] != 0 {
		t.Fatalf("after the switch: %q", b)
	}
	if b := c.command(comPing, ""); b[0] != 0 {
		t.Errorf("ping: %q", b)
	}
}

// A client that asks for session tracking gets the GTID of its write, and of its
// transaction at the commit, in the OK packet.
func TestSessionTracking(t *testing.T) {
	s := start(t, Config{Handler: fixed(Result{}), ServerID: 4})
	c := login41(t, s, capSessionTrack|capDeprecateEOF)
	gtid := func(b []byte) string {
		t.Helper()
		d := decoder{b: b}
		d.uint(1)
		d.lenenc()
		d.lenenc()
		status := d.uint(2)
		d.uint(2)
		if status&statusSessionChanged == 0 {
			if len(d.b) != 0 {
				t.Fatalf("bytes after a plain OK: %q", b)
			}
			return ""
		}
		d.lenencBytes()
		changes := decoder{b: d.lenencBytes()}
		if changes.uint(1) != 0 {
			t.Fatalf("not a system variable: %q", b)
		}
		entry := decoder{b: changes.lenencBytes()}
		name, value := string(entry.lenencBytes()), string(entry.lenencBytes())
		if d.bad || changes.bad || entry.bad || len(d.b)+len(changes.b)+len(entry.b) != 0 || name != "last_gtid" {
			t.Fatalf("malformed: %q", b)
		}
		return value
	}
	for _, step := range []struct{ sql, want string }{
		{"INSERT INTO t VALUES (1)", "0-4-1"}, {"SET @a=1", ""}, {"BEGIN", ""}, {"UPDATE t SET a=2", ""}, {"COMMIT", "0-4-2"},
		{"SET session_track_system_variables='autocommit'", ""}, {"DELETE FROM t", ""},
		{"SET session_track_system_variables='*'", "0-4-3"},
	} {
		if got := gtid(c.command(comQuery, step.sql)); got != step.want {
			t.Errorf("%s: last_gtid %q, want %q", step.sql, got, step.want)
		}
	}
	quiet := login41(t, s, 0)
	if got := gtid(quiet.command(comQuery, "DELETE FROM t")); got != "" {
		t.Errorf("a client that did not ask is told %q", got)
	}
}

// A client without CLIENT_DEPRECATE_EOF gets EOF packets around the rows.
func TestOldResultSet(t *testing.T) {
	c := login41(t, start(t, Config{}), 0)
	if b := c.command(comQuery, "SELECT 1, 'a'"); !bytes.Equal(b, []byte{2}) {
		t.Fatalf("column count: %q", b)
	}
	c.receive()
	c.receive()
	if b := c.receive(); len(b) != 5 || b[0] != 0xfe {
		t.Fatalf("no EOF after the columns: %q", b)
	}
	if b := c.receive(); string(b) != "\x011\x01a" {
		t.Fatalf("row: %q", b)
	}
	if b := c.receive(); len(b) != 5 || b[0] != 0xfe {
		t.Fatalf("no EOF after the rows: %q", b)
	}
}

func TestCommands(t *testing.T) {
	s := start(t, Config{Handler: newStore(), Transactions: true})
	c := login41(t, s, capDeprecateEOF)
	number := func(b []byte) int {
		if b[0] != 0xff {
			return 0
		}
		return int(b[1]) | int(b[2])<<8
	}
	if got := number(c.command(comInitDB, "some")); got != 0 {
		t.Errorf("COM_INIT_DB: %d", got)
	}
	if got := number(c.command(0x09, "")); got != 1047 {
		t.Errorf("COM_STATISTICS: %d, want 1047", got)
	}
	b := c.command(comStmtPrepare, "SELECT ?")
	if b[0] != 0 || b[7] != 1 {
		t.Fatalf("prepare: %q", b)
	}
	c.receive() // the parameter's definition
	id := string(b[1:5])
	if got := number(c.command(comStmtReset, id)); got != 0 {
		t.Errorf("COM_STMT_RESET: %d", got)
	}
	if got := number(c.command(comStmtReset, "zzzz")); got != 1243 {
		t.Errorf("COM_STMT_RESET of an unknown one: %d, want 1243", got)
	}
	if got := number(c.command(comStmtExecute, "zzzz\x00\x01\x00\x00\x00")); got != 1243 {
		t.Errorf("COM_STMT_EXECUTE of an unknown one: %d, want 1243", got)
	}
	if got := number(c.command(comStmtExecute, id+"\x01\x01\x00\x00\x00\x00\x01\x03\x00\x01\x00\x00\x00")); got != 1235 {
		t.Errorf("a cursor: %d, want 1235", got)
	}
	c.command(comQuery, "BEGIN")
	c.command(comQuery, "SET @a=1")
	if got := number(c.command(comResetConnection, "")); got != 0 {
		t.Errorf("COM_RESET_CONNECTION: %d", got)
	}
	if got := number(c.command(comStmtReset, id)); got != 1243 {
		t.Errorf("a statement outlived the reset: %d", got)
	}
	for range maxPrepared {
		if got := number(c.command(comStmtPrepare, "SELECT 1")); got != 0 {
			t.Fatal(got)
		}
	}
	if got := number(c.command(comStmtPrepare, "SELECT 1")); got != 1461 {
		t.Errorf("one prepared statement too many: %d, want 1461", got)
	}
	if got := number(c.command(comStmtPrepare, strings.Repeat("?,", maxParams+1))); got != 1390 {
		t.Errorf("one placeholder too many: %d, want 1390", got)
	}
}

// What is malformed ends its connection, and no other.
func TestMalformedPackets(t *testing.T) {
	s := start(t, Config{})
	bystander := login41(t, s, 0)
	for name, send := range map[string]func(c *rawClient){
		"empty packet":        func(c *rawClient) { c.send() },
		"wrong sequence":      func(c *rawClient) { c.seq = 3; c.send(comPing) },
		"short execute":       func(c *rawClient) { c.send(comStmtExecute, 1) },
		"short close":         func(c *rawClient) { c.send(comStmtClose, 1) },
		"short reset":         func(c *rawClient) { c.send(comStmtReset, 1) },
		"short long data":     func(c *rawClient) { c.send(comStmtLongData, 1) },
		"half a packet":       func(c *rawClient) { c.Write([]byte{9, 0, 0, 0, comPing}); c.Conn.(*net.TCPConn).CloseWrite() },
		"arguments cut short": func(c *rawClient) { c.prepareOne(); c.send(comStmtExecute, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 8, 0, 1) },
		"unknown type": func(c *rawClient) {
			c.prepareOne()
			c.send(comStmtExecute, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0x77, 0, 1)
		},
		"types never sent": func(c *rawClient) { c.prepareOne(); c.send(comStmtExecute, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1) },
	} {
		c := login41(t, s, 0)
		c.seq = 0
		send(c)
		if b, err := io.ReadAll(c.r); err != nil || len(b) != 0 {
			t.Errorf("%s: the answer is %q, %v; want an end", name, b, err)
		}
	}
	for name, b := range map[string][]byte{
		"no protocol 4.1": loginPacket(capSecureConn, nil, ""), "cut short": loginPacket(rawCaps, nil, "")[:35], "empty": {},
		"no end of the user": append(binary.LittleEndian.AppendUint32(nil, rawCaps), bytes.Repeat([]byte{'x'}, 60)...),
	} {
		c, _ := dialRaw(t, s)
		c.send(b...)
		if b := c.receive(); b[0] != 0xff || binary.LittleEndian.Uint16(b[1:]) != 1043 {
			t.Errorf("login, %s: %q", name, b)
		}
	}
	if b := bystander.command(comPing, ""); b[0] != 0 {
		t.Errorf("the bystander's ping: %q", b)
	}
}

func (c *rawClient) prepareOne() {
	c.command(comStmtPrepare, "SELECT ?")
	c.receive() // the parameter's definition
	c.receive() // EOF
	c.seq = 0
}

func TestPacketLimits(t *testing.T) {
	s := start(t, Config{})
	c := login41(t, s, 0)
	c.seq = 0
	c.w.Write([]byte{0xff, 0xff, 0xff, 0})
	c.w.Write(make([]byte, maxPayload))
	if err := c.flush(); err != nil {
		t.Fatal(err)
	}
	c.seq = 1
	c.Conn.(*net.TCPConn).CloseWrite()
	if b := c.receive(); b[0] != 0xff || binary.LittleEndian.Uint16(b[1:]) != 1153 {
		t.Errorf("a packet of the largest size: %q", b)
	}
	early, _ := dialRaw(t, s)
	early.w.Write([]byte{0, 0, 2, 1})
	if early.flush() != nil {
		t.Fatal("flush")
	}
	if _, err := early.read(maxPayload); !errors.Is(err, io.EOF) {
		t.Errorf("a large packet before the login: %v", err)
	}
}
