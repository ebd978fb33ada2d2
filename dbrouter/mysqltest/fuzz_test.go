package mysqltest

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"math"
	"net"
	"reflect"
	"strings"
	"testing"
	"time"
)

// The tokens of a statement, written with spaces between them, are the tokens of
// the result: comments are gone, nothing else is.
func FuzzLexer(f *testing.F) {
	for _, s := range []string{
		"SELECT @@global.read_only, 'it''s' AS `a``b` -- c\n FROM t # x", "/*!50001 SELECT */ /* 1 */ 2;", "INSERT INTO t VALUES (?, -1.5e3, \"\\\"\")",
		"/*M!100100 a /* b */ */", "--", "'open", "SELECT 1; SELECT 2", "*/ /*", "\xff\x00",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		st := parse(sql)
		var parts []string
		end := 0
		for _, tok := range st.tokens {
			if tok.start < end || tok.end <= tok.start || tok.end > len(sql) {
				t.Fatalf("token %+v after %d", tok, end)
			}
			end = tok.end
			parts = append(parts, sql[tok.start:tok.end])
		}
		if len(st.tokens) > maxTokens {
			t.Fatalf("%d tokens kept", len(st.tokens))
		}
		st.kind()
		selectItems(st, nil)
		if st.broken || st.second || !st.whole {
			return
		}
		again := parse(strings.Join(parts, " "))
		if again.broken || again.params != st.params || len(again.tokens) != len(st.tokens) || again.kind() != st.kind() {
			t.Fatalf("%q became %q", sql, again.sql)
		}
		for i, tok := range again.tokens {
			if tok.kind != st.tokens[i].kind || tok.text != st.tokens[i].text {
				t.Fatalf("%q: token %d became %+v", sql, i, tok)
			}
		}
	})
}

// What a client encodes is what the handler gets.
func FuzzParams(f *testing.F) {
	f.Add(int64(-3), uint64(1<<63), 1.5, "text", []byte{0}, byte(0), []byte{1, 2, 3})
	f.Add(int64(0), uint64(0), 0.0, "", []byte{}, byte(0xff), []byte{})
	f.Fuzz(func(t *testing.T, i int64, u uint64, fl float64, s string, b []byte, null byte, raw []byte) {
		if fl != fl {
			return
		}
		types := []byte{8, 0, 8, 0x80, 5, 0, 0xfe, 0, 0xfc, 0, 3, 0, 1, 0x80}
		want := []any{i, u, fl, s, append([]byte{}, b...), int64(int32(i)), uint64(byte(u))}
		encoded := [][]byte{
			binary.LittleEndian.AppendUint64(nil, uint64(i)), binary.LittleEndian.AppendUint64(nil, u), binary.LittleEndian.AppendUint64(nil, math.Float64bits(fl)),
			appendLenencString(nil, s), appendLenencString(nil, string(b)), binary.LittleEndian.AppendUint32(nil, uint32(i)), {byte(u)},
		}
		payload := append([]byte{null & 0x7f, 1}, types...)
		for k := range want {
			if null&(1<<k) != 0 {
				want[k] = nil
				continue
			}
			payload = append(payload, encoded[k]...)
		}
		p := &prepared{st: &statement{params: len(want)}}
		got, err := p.args(&decoder{b: payload})
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("got %#v (%v), want %#v", got, err, want)
		}
		// The types are remembered for the next execution.
		if got, err = p.args(&decoder{b: append([]byte{0x7f, 0}, raw...)}); err != nil || !reflect.DeepEqual(got, make([]any, 7)) {
			t.Fatalf("all NULL: %v (%v)", got, err)
		}
		p.args(&decoder{b: raw}) // must not panic
		for code := range 256 {
			param(&decoder{b: raw}, byte(code), null&1 != 0)
		}
	})
}

func FuzzLogin(f *testing.F) {
	f.Add(loginPacket(rawCaps, []byte("proof"), nativePassword))
	f.Add(loginPacket(rawCaps|capConnectWithDB|capLenencAuth|capConnectAttrs, bytes.Repeat([]byte{1}, 20), "db\x00x\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := parseLogin(b)
		if err != nil {
			return
		}
		again := binary.LittleEndian.AppendUint32(nil, l.caps&^capConnectAttrs)
		again = append(again, make([]byte, 28)...)
		again = append(append(again, l.user...), 0)
		if l.caps&capLenencAuth != 0 {
			again = appendLenencString(again, string(l.proof))
		} else {
			again = append(append(again, byte(len(l.proof))), l.proof...)
		}
		if l.caps&capConnectWithDB != 0 {
			again = append(append(again, l.database...), 0)
		}
		if l.caps&capPluginAuth != 0 {
			again = append(append(again, l.plugin...), 0)
		}
		second, err := parseLogin(again)
		second.caps = l.caps
		if err != nil || !reflect.DeepEqual(l, second) {
			t.Fatalf("%+v became %+v (%v)", l, second, err)
		}
	})
}

func FuzzPosition(f *testing.F) {
	for _, s := range []string{"", "0-1-2", "0-1-2,1-2-3", "0-1-2, 0-2-9", "x", "0-1-18446744073709551615"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		g, _, err := parsePosition(s)
		if err != nil {
			return
		}
		again, reachable, err := parsePosition(g.String())
		if g.seq == 0 {
			g = gtid{} // the start has no server
		}
		if err != nil || !reachable || again != g {
			t.Fatalf("%q is %v, which is read as %v (%v)", s, g, again, err)
		}
	})
}

// nowhere is a connection that swallows what is written.
type nowhere struct {
	net.Conn
	bytes.Buffer
}

func (n *nowhere) Write(b []byte) (int, error) { return n.Buffer.Write(b) }
func (n *nowhere) Read([]byte) (int, error)    { return 0, net.ErrClosed }
func (n *nowhere) Close() error                { return nil }

// Whatever a client sends as a command, the answer is whole packets that begin
// like an answer, with numbers in sequence.
func FuzzCommand(f *testing.F) {
	for _, s := range []string{
		"\x03SELECT 1, @@version", "\x03SET @a=1, b=2", "\x16SELECT ?", "\x17\x01\x00\x00\x00\x00\x01\x00\x00\x00\x00\x01\x08\x00\x01\x02\x03\x04\x05\x06\x07\x08",
		"\x18\x01\x00\x00\x00\x00\x00data", "\x19\x01\x00\x00\x00", "\x1a\x01\x00\x00\x00", "\x1f", "\x0e", "\x03SHOW ALL SLAVES STATUS", "\x03SET STATEMENT a=1 FOR BEGIN",
		"\x03KILL QUERY 1", "\x03INSERT INTO t VALUES (1)", "\x03SHOW", "\x03SHOW ALL", "\x03STOP SLAVE", "\x03SET NAMES", "\x03SELECT MASTER_GTID_WAIT('0-1-1', 0)",
		"\x03START TRANSACTION READ", "\x03SET SESSION TRANSACTION ISOLATION LEVEL", "\x03USE", "\x03COMMIT", "\x03KILL",
	} {
		f.Add([]byte(s))
	}
	s, err := New(Config{Handler: echo, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close() })
	f.Fuzz(func(t *testing.T, payload []byte) {
		sink := new(nowhere)
		c := newConn(s, 1<<31, sink)
		ctx, cancel := context.WithTimeout(c.ctx, 20*time.Millisecond) // SLEEP
		defer cancel()
		c.ctx, c.running, c.caps = ctx, ctx, capDeprecateEOF
		c.prepare("SELECT ?")
		c.seq = 1
		c.flush()
		sink.Reset()
		if c.command(payload) != nil {
			return
		}
		c.flush()
		answer := sink.Bytes()
		for seq := byte(1); len(answer) > 0; seq++ {
			n := 4 + (int(answer[0]) | int(answer[1])<<8 | int(answer[2])<<16)
			if n == 4 || n > len(answer) || answer[3] != seq {
				t.Fatalf("%q: packet %d is malformed: %q", payload, seq, answer)
			}
			answer = answer[n:]
		}
	})
}

func FuzzLenenc(f *testing.F) {
	for _, n := range []uint64{0, 0xfa, 0xfb, 0xffff, 0x10000, 0xffffff, 0x1000000, 1<<64 - 1} {
		f.Add(n, "rest")
	}
	f.Fuzz(func(t *testing.T, n uint64, rest string) {
		d := decoder{b: append(appendLenenc(nil, n), rest...)}
		if got := d.lenenc(); got != n || string(d.b) != rest || d.bad {
			t.Fatalf("%d became %d, %q is left", n, got, d.b)
		}
		d = decoder{b: []byte(rest)}
		if d.lenencBytes(); d.bad && (d.uint(4) != 0 || d.cstring() != "" || len(d.b) != 0) {
			t.Fatal("a decoder yields something after a failure")
		}
	})
}
