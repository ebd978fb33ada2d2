package dbrouter

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"strings"
	"testing"
)

// frame makes a packet.
func frame(seq byte, body string) string {
	n := len(body)
	return string([]byte{byte(n), byte(n >> 8), byte(n >> 16), seq}) + body
}

func lenenc(s string) string {
	switch {
	case len(s) > 0xffff:
		return string([]byte{0xfd, byte(len(s)), byte(len(s) >> 8), byte(len(s) >> 16)}) + s
	case len(s) > 250:
		return string([]byte{0xfc, byte(len(s)), byte(len(s) >> 8)}) + s
	}
	return string([]byte{byte(len(s))}) + s
}

// okPacket is an OK packet with changes of the session, if there are any.
func okPacket(head byte, status uint16, changes string) string {
	if changes != "" {
		status |= sessionChanged
	}
	body := string([]byte{head, 1, 0, byte(status), byte(status >> 8), 0, 0})
	if changes != "" {
		body += lenenc("") + lenenc(changes)
	}
	return body
}

func variableChange(pairs ...string) string {
	var b strings.Builder
	for _, p := range pairs {
		b.WriteString(lenenc(p))
	}
	return "\x00" + lenenc(b.String())
}

func gtidChange(gtids string) string { return "\x03" + lenenc("\x00"+lenenc(gtids)) }

const uuid = "3e11fa47-71ca-11e1-9e33-c80aa9429562"

var followed = []struct {
	name    string
	dialect dialect
	com     byte
	answer  string
	want    string
	lost    bool
}{
	{"a write", mariaDB, comQuery, frame(1, okPacket(headOK, 2, variableChange("last_gtid", "0-1-7"))), "0-1-7", false},
	{"a prepared write", mariaDB, comExecute, frame(1, okPacket(headOK, 2, variableChange("last_gtid", "0-1-7"))), "0-1-7", false},
	{"a write without effect", mariaDB, comQuery, frame(1, okPacket(headOK, 2, "")), "", false},
	{"another variable first", mariaDB, comQuery, frame(1, okPacket(headOK, 2, variableChange("autocommit", "ON")+variableChange("time_zone", "UTC", "last_gtid", "1-2-3"))), "1-2-3", false},
	{"an entry for others", mariaDB, comQuery, frame(1, okPacket(headOK, 2, "\x63"+lenenc("\xff\xff")+variableChange("last_gtid", "0-1-7"))), "0-1-7", false},
	{"MySQL", mySQL, comQuery, frame(1, okPacket(headOK, 2, gtidChange(uuid+":5"))), uuid + ":1-5", false},
	{"MySQL with a tag", mySQL, comQuery, frame(1, okPacket(headOK, 2, gtidChange(strings.ToUpper(uuid)+":tag:5"))), uuid + ":tag:1-5", false},
	{"two results", mariaDB, comQuery, frame(1, okPacket(headOK, 2|moreResults, variableChange("last_gtid", "0-1-7"))) + frame(2, okPacket(headOK, 2, variableChange("last_gtid", "1-1-3"))), "0-1-7,1-1-3", false},
	{"rows of a write", mariaDB, comQuery, frame(1, "\x01") + frame(2, "\x03def…") + frame(3, "\x011") + frame(4, okPacket(headEOF, 2, variableChange("last_gtid", "0-1-7"))), "0-1-7", false},
	{"binary rows", mariaDB, comExecute, frame(1, "\x01") + frame(2, "\x03def…") + frame(3, okPacket(headOK, 2, variableChange("last_gtid", "0-6-6"))) + frame(4, okPacket(headEOF, 2, "")), "", false},
	{"a procedure with rows", mariaDB, comQuery, frame(1, "\x01") + frame(2, "\x03def…") + frame(3, okPacket(headEOF, 2|moreResults, "")) + frame(4, okPacket(headOK, 2, variableChange("last_gtid", "0-1-7"))), "0-1-7", false},
	{"an error", mariaDB, comQuery, frame(1, "\xff\x26\x04#23000Duplicate"), "", false},
	{"an error among rows", mariaDB, comQuery, frame(1, "\x01") + frame(2, "\x03def…") + frame(3, "\xff\x26\x04#23000x"), "", false},
	{"a file from the client", mariaDB, comQuery, frame(1, "\xfbname") + frame(3, okPacket(headOK, 2, variableChange("last_gtid", "0-1-7"))), "0-1-7", false},
	{"a long row", mariaDB, comQuery, frame(1, "\x01") + frame(2, "\x03def…") + frame(3, "\xfe"+strings.Repeat("x", maxPacket-1)) + frame(4, okPacket(headOK, 2, variableChange("last_gtid", "0-6-6"))) + frame(5, okPacket(headEOF, 2, "")), "", false},
	{"rows after a long row", mariaDB, comQuery, frame(1, "\x01") + frame(2, "\x03def…") + frame(3, "\x00"+strings.Repeat("x", maxPacket-1)) + frame(4, okPacket(headEOF, 2, variableChange("last_gtid", "0-6-6"))) + frame(5, okPacket(headEOF, 2, variableChange("last_gtid", "0-1-7"))), "0-1-7", false},
	{"hundreds of rows written", mariaDB, comQuery, frame(1, "\x00\xfc\x2c\x01\x00\x02\x40\x00\x00\x00"+lenenc(variableChange("last_gtid", "0-1-7"))), "0-1-7", false},
	{"a high number inserted", mariaDB, comQuery, frame(1, "\x00\x01\xfd\x01\x02\x03\x02\x40\x00\x00\x00"+lenenc(variableChange("last_gtid", "0-1-7"))), "0-1-7", false},
	{"the highest number inserted", mariaDB, comQuery, frame(1, "\x00\x01\xfe\x01\x02\x03\x04\x05\x06\x07\x08\x02\x40\x00\x00\x00"+lenenc(variableChange("last_gtid", "0-1-7"))), "0-1-7", false},
	{"a prepare", mariaDB, 0x16, frame(1, okPacket(headOK, 2, variableChange("last_gtid", "0-6-6"))), "", false},
	{"no GTID", mariaDB, comQuery, frame(1, okPacket(headOK, 2, variableChange("last_gtid", "0-1-7'; DROP"))), "", true},
	{"a cut OK", mariaDB, comQuery, frame(1, "\x00\x01"), "", true},
	{"a cut report", mariaDB, comQuery, frame(1, okPacket(headOK, 2, "\x00\x7fx")), "", true},
	{"a cut GTID", mySQL, comQuery, frame(1, okPacket(headOK, 2, "\x03"+lenenc("\x00\x7fx"))), "", true},
	{"a cut variable", mariaDB, comQuery, frame(1, okPacket(headOK, 2, "\x00"+lenenc(lenenc("last_gtid")+"\x09"))), "", true},
	{"a report longer than any", mariaDB, comQuery, frame(1, okPacket(headOK, 2, strings.Repeat(variableChange("x", strings.Repeat("y", 200)), 400)+variableChange("last_gtid", "0-1-7"))), "", true},
	{"a report longer than any after rows", mariaDB, comQuery, frame(1, "\x01") + frame(2, "\x03def…") + frame(3, okPacket(headEOF, 2, strings.Repeat(variableChange("x", strings.Repeat("y", 200)), 400))), "", true},
	{"a report for longer than it is", mariaDB, comQuery, frame(1, "\x00\x01\x00\x02\x40\x00\x00\x00\x7f\x00"), "", true},
	{"an empty packet", mariaDB, comQuery, frame(1, ""), "", true},
}

func follow(d dialect, com byte, pieces ...string) *follower {
	f := &follower{eof: true, dialect: d}
	f.command(com)
	for _, p := range pieces {
		f.feed([]byte(p))
	}
	return f
}

func TestFollow(t *testing.T) {
	for _, c := range followed {
		f := follow(c.dialect, c.com, c.answer)
		if got, sure := f.take(); got != c.want || sure == c.lost {
			t.Errorf("%s: %q, sure %v, want %q, %v", c.name, got, sure, c.want, !c.lost)
		}
		if got, _ := f.take(); got != "" {
			t.Errorf("%s: the second time %q", c.name, got)
		}
		if cap(f.packet) > 2*followLimit {
			t.Errorf("%s: keeps %d bytes", c.name, cap(f.packet))
		}
		if len(c.answer) > 1<<20 {
			continue
		}
		// However the network cuts it.
		f = follow(c.dialect, c.com, strings.Split(c.answer, "")...)
		if got, sure := f.take(); got != c.want || sure == c.lost {
			t.Errorf("%s byte by byte: %q, sure %v, want %q, %v", c.name, got, sure, c.want, !c.lost)
		}
	}
}

// TestFollowOldEnds: without CLIENT_DEPRECATE_EOF the end of rows tells nothing, so
// that what a write with rows has written is not known.
func TestFollowOldEnds(t *testing.T) {
	f := &follower{dialect: mariaDB}
	f.command(comQuery)
	f.feed([]byte(frame(1, okPacket(headOK, 2, variableChange("last_gtid", "0-1-7")))))
	if got, sure := f.take(); got != "0-1-7" || !sure {
		t.Errorf("a write: %q, %v", got, sure)
	}
	f.command(comQuery)
	f.feed([]byte(frame(1, "\x01") + frame(2, "\x03def…") + frame(3, "\xfe\x00\x00\x02\x00") + frame(4, "\xfe\x00\x00\x02\x00")))
	if got, sure := f.take(); got != "" || sure {
		t.Errorf("a write with rows: %q, %v", got, sure)
	}
}

// TestFollowBeginsAnew: what a server sends beyond its answer does not spoil the
// next one.
func TestFollowBeginsAnew(t *testing.T) {
	f := follow(mariaDB, comQuery, frame(1, okPacket(headOK, 2, ""))+"\x01\x02")
	f.command(comQuery)
	f.feed([]byte(frame(1, okPacket(headOK, 2, variableChange("last_gtid", "0-1-7")))))
	if got, sure := f.take(); got != "0-1-7" || !sure {
		t.Errorf("%q, %v", got, sure)
	}
}

// FuzzFollow: whatever a server sends, a follower does not panic, keeps little,
// comes to the same result however the bytes are cut, and reports nothing but
// positions that can stand in a statement.
func FuzzFollow(f *testing.F) {
	for _, c := range followed {
		if len(c.answer) < 1<<16 {
			f.Add([]byte(c.answer), c.dialect == mariaDB, c.com, uint64(1))
		}
	}
	f.Fuzz(func(t *testing.T, answer []byte, maria bool, com byte, seed uint64) {
		d := mySQL
		if maria {
			d = mariaDB
		}
		whole := follow(d, com, string(answer))
		rnd := rand.New(rand.NewPCG(seed, 0))
		var pieces []string
		for rest := string(answer); rest != ""; {
			n := 1 + rnd.IntN(len(rest))
			pieces = append(pieces, rest[:n])
			rest = rest[n:]
		}
		cut := follow(d, com, pieces...)
		got, sure := whole.take()
		if other, otherSure := cut.take(); got != other || sure != otherSure {
			t.Errorf("whole %q %v, in pieces %q %v", got, sure, other, otherSure)
		}
		if clean, err := cleanPosition(got); err != nil || clean != got {
			t.Errorf("reported %q: %v", got, err)
		}
		if cap(whole.packet) > 4*followLimit {
			t.Errorf("keeps %d bytes", cap(whole.packet))
		}
		parseGreeting(answer)
	})
}

func TestRenumber(t *testing.T) {
	f := &follower{renumber: 1}
	b := []byte(frame(3, "abc") + frame(5, "") + frame(7, "d"))
	f.feed(b[:2])
	f.feed(b[2:9])
	f.feed(b[9:])
	if want := frame(2, "abc") + frame(4, "") + frame(6, "d"); string(b) != want {
		t.Errorf("%q, want %q", b, want)
	}
}

func TestParseGreeting(t *testing.T) {
	real, err := hex.DecodeString("0a382e302e333600" + "08000000" + "0102030405060708" + "00" + "ffff" + "ff" + "0200" + "ffdf" + "15" + "00000000000000000000")
	if err != nil {
		t.Fatal(err)
	}
	g, ok := parseGreeting(real)
	if !ok || g.version != "8.0.36" || g.thread != 8 || g.caps != 0xdfffffff {
		t.Errorf("%+v, %v", g, ok)
	}
	for n := range len(real) - 11 {
		if _, ok := parseGreeting(real[:n]); ok {
			t.Errorf("%d bytes are taken for a greeting", n)
		}
	}
	if _, ok := parseGreeting(append([]byte{headError}, bytes.Repeat([]byte{1}, 99)...)); ok {
		t.Error("an error is taken for a greeting")
	}
}
