package clienthello

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// recordConn keeps what is written and never answers.
type recordConn struct {
	net.Conn
	out bytes.Buffer
}

func (c *recordConn) Write(p []byte) (int, error)      { return c.out.Write(p) }
func (c *recordConn) Read([]byte) (int, error)         { return 0, io.EOF }
func (c *recordConn) Close() error                     { return nil }
func (c *recordConn) SetDeadline(time.Time) error      { return nil }
func (c *recordConn) SetReadDeadline(time.Time) error  { return nil }
func (c *recordConn) SetWriteDeadline(time.Time) error { return nil }

// helloOf is what crypto/tls sends.
func helloOf(conf *tls.Config) []byte {
	c := new(recordConn)
	tls.Client(c, conf).HandshakeContext(context.Background())
	return c.out.Bytes()
}

func classic() []byte {
	return helloOf(&tls.Config{ServerName: "WWW.Example.com", NextProtos: []string{"h2", "http/1.1"}, CurvePreferences: []tls.CurveID{tls.X25519}})
}

// postQuantum has a key share of 1,216 bytes.
func postQuantum() []byte {
	return helloOf(&tls.Config{ServerName: "www.example.com", NextProtos: []string{"h2"}, CurvePreferences: []tls.CurveID{tls.X25519MLKEM768, tls.X25519}})
}

// extension, message and records make hellos by hand.
func extension(kind uint16, data string) string {
	return string(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, kind), uint16(len(data)))) + data
}

func lengthed(s string) string { return string(binary.BigEndian.AppendUint16(nil, uint16(len(s)))) + s }

func serverName(name string) string { return extension(0, lengthed("\x00"+lengthed(name))) }

func message(body string) string {
	n := len(body)
	return string([]byte{1, byte(n >> 16), byte(n >> 8), byte(n)}) + body
}

const fixed = "\x03\x03" + "01234567890123456789012345678901" + "\x00" + "\x00\x02\x13\x01" + "\x01\x00"

func records(msg string, size int) string {
	var b strings.Builder
	for len(msg) > 0 {
		n := min(size, len(msg))
		b.WriteString("\x16\x03\x01" + lengthed(msg[:n]))
		msg = msg[n:]
	}
	return b.String()
}

func hello(extensions ...string) string {
	return records(message(fixed+lengthed(strings.Join(extensions, ""))), maxRecord)
}

// TestSplit: a hello is understood wherever it is split, in the network and into
// records, and what comes after it is kept.
func TestSplit(t *testing.T) {
	for name, c := range map[string]struct {
		data []byte
		want Hello
	}{
		"classic":      {classic(), Hello{"www.example.com", []string{"h2", "http/1.1"}}},
		"post-quantum": {postQuantum(), Hello{"www.example.com", []string{"h2"}}},
		"no name":      {helloOf(&tls.Config{InsecureSkipVerify: true}), Hello{}},
	} {
		if name == "post-quantum" && len(c.data) < 1400 {
			t.Errorf("%s: %d bytes fit into one packet", name, len(c.data))
		}
		check := func(how string, r io.Reader, all []byte) {
			t.Helper()
			h, raw, err := Read(r)
			if err != nil || !reflect.DeepEqual(*h, c.want) || !bytes.HasPrefix(all, raw) {
				t.Fatalf("%s, %s: %+v, %d bytes, %v", name, how, h, len(raw), err)
			}
		}
		for i := range c.data {
			check("split", io.MultiReader(bytes.NewReader(c.data[:i]), bytes.NewReader(c.data[i:])), c.data)
			if _, _, err := Read(bytes.NewReader(c.data[:i])); i > 0 && err != io.ErrUnexpectedEOF || i == 0 && err != io.EOF {
				t.Fatalf("%s, the first %d bytes: %v", name, i, err)
			}
		}
		check("bytewise", iotest.OneByteReader(bytes.NewReader(c.data)), c.data)
		msg := string(c.data[recordHead:])
		for _, size := range []int{1, 2, 3, 4, 5, 100, len(msg) - 1} {
			split := []byte(records(msg, size))
			check("in records", bytes.NewReader(split), split)
			check("in records, bytewise", iotest.OneByteReader(bytes.NewReader(split)), split)
		}
		more := append(slices.Clone(c.data), "\x14\x03\x03\x00\x01\x01more"...)
		if _, raw, err := Read(bytes.NewReader(more)); err != nil || !bytes.Equal(raw, more) {
			t.Errorf("%s: %d of %d bytes are kept, %v", name, len(raw), len(more), err)
		}
	}
}

// TestSize: 64 KiB are taken, and no more; and there is an end to records of a
// byte each.
func TestSize(t *testing.T) {
	padded := func(size int) string {
		rest := size - len(message(fixed+lengthed(serverName("a.example")))) - 4
		return message(fixed + lengthed(serverName("a.example")+extension(21, strings.Repeat("\x00", rest))))
	}
	largest := padded(MaxMessage)
	if len(largest) != MaxMessage {
		t.Fatal(len(largest))
	}
	for _, size := range []int{maxRecord, 1000, 50} {
		if h, _, err := Read(strings.NewReader(records(largest, size))); err != nil || h.ServerName != "a.example" {
			t.Errorf("records of %d: %+v, %v", size, h, err)
		}
	}
	for name, data := range map[string]string{
		"a byte more":          records(padded(MaxMessage+1), maxRecord),
		"far more":             records("\x01\xff\xff\xff"+strings.Repeat("\x00", 1<<20), maxRecord),
		"records of a byte":    records(largest, 1),
		"a record too large":   "\x16\x03\x01\x40\x01" + largest,
		"an endless beginning": strings.Repeat("\x16\x03\x01\x00\x01\x01", 1<<20),
	} {
		r := &countingReader{r: strings.NewReader(data)}
		if _, _, err := Read(r); !errors.Is(err, ErrMalformed) || r.n > 2*MaxBytes {
			t.Errorf("%s: %v after %d bytes", name, err, r.n)
		}
	}
}

type countingReader struct {
	r io.Reader
	n int
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += n
	return n, err
}

func TestRefused(t *testing.T) {
	for _, data := range []string{"GET / HTTP/1.1\r\n", "\x15\x03\x01\x00\x02\x01\x00", "\x16\x02\x00\x00\x05", "SSH-2.0-x", "\x80\x2e\x01\x00\x02"} {
		if _, raw, err := Read(iotest.OneByteReader(strings.NewReader(data))); err != ErrNotTLS || len(raw) > 2 {
			t.Errorf("%q: %v after %d bytes", data, err, len(raw))
		}
	}
	for name, data := range map[string]string{
		"empty record":            "\x16\x03\x01\x00\x00",
		"another message":         "\x16\x03\x01\x00\x04\x02\x00\x00\x00",
		"a message after it":      records(message(fixed)+message(fixed), maxRecord),
		"half a message after it": records(message(fixed)+"\x01", maxRecord),
		"another record within":   records(message(fixed)[:10], maxRecord) + "\x17\x03\x03\x00\x01x",
		"an alert between":        "\x16\x03\x01\x00\x01\x01" + "\x15\x03\x01\x00\x02\x01\x00",
		"short":                   records(message(fixed[:30]), maxRecord),
		"long session ID":         records(message(fixed[:34]+"\x21"+strings.Repeat("s", 33)+fixed[35:]), maxRecord),
		"no suites":               records(message(fixed[:35]+"\x00\x00\x01\x00"), maxRecord),
		"odd suites":              records(message(fixed[:35]+"\x00\x03\x13\x01\x13\x01\x00"), maxRecord),
		"no compression":          records(message(fixed[:39]+"\x00"), maxRecord),
		"bytes at the end":        records(message(fixed+lengthed("")+"x"), maxRecord),
		"long extension":          hello("\x00\x00\x00\x05abcd"),
		"half an extension":       hello("\x00\x00\x00"),
		"two server names":        hello(serverName("a.example"), serverName("b.example")),
		"two of another type":     hello(extension(21, ""), extension(21, "")),
		"two names in a list":     hello(extension(0, lengthed("\x00"+lengthed("a")+"\x00"+lengthed("b")))),
		"empty list of names":     hello(extension(0, lengthed(""))),
		"empty name":              hello(serverName("")),
		"name of another type":    hello(extension(0, lengthed("\x01"+lengthed("a")))),
		"bytes after the list":    hello(extension(0, lengthed("\x00"+lengthed("a"))+"x")),
		"NUL in the name":         hello(serverName("a\x00.example")),
		"space in the name":       hello(serverName("a .example")),
		"dot at the end":          hello(serverName("a.example.")),
		"no protocols":            hello(extension(16, lengthed(""))),
		"empty protocol":          hello(extension(16, lengthed("\x00"))),
		"long protocol":           hello(extension(16, lengthed("\x03h2"))),
	} {
		if h, _, err := Read(strings.NewReader(data)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
	}
	if h, _, err := Read(strings.NewReader(records(message(fixed), maxRecord))); err != nil || h.ServerName != "" {
		t.Errorf("without extensions: %+v, %v", h, err)
	}
}

// FuzzRead: crypto/tls is the oracle. What both take, they understand in the same
// way; and a hello in pieces is the same as the whole.
func FuzzRead(f *testing.F) {
	f.Add(classic())
	f.Add(postQuantum())
	f.Add([]byte(records(string(classic()[recordHead:]), 100)))
	f.Add([]byte(hello(serverName("a.example"), extension(16, lengthed("\x02h2")), extension(43, "\x02\x03\x04"))))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		h, raw, err := Read(bytes.NewReader(data))
		pieces, _, pieceErr := Read(iotest.OneByteReader(bytes.NewReader(data)))
		if (err == nil) != (pieceErr == nil) || err == nil && !reflect.DeepEqual(h, pieces) {
			t.Fatalf("whole %+v, %v, in pieces %+v, %v", h, err, pieces, pieceErr)
		}
		if !bytes.HasPrefix(data, raw) {
			t.Fatalf("read %x", raw)
		}
		if err != nil {
			return
		}
		var seen *tls.ClientHelloInfo
		server := tls.Server(&readConn{recordConn: new(recordConn), r: bytes.NewReader(data)}, &tls.Config{GetConfigForClient: func(i *tls.ClientHelloInfo) (*tls.Config, error) {
			seen = i
			return nil, errors.New("seen")
		}})
		server.Handshake()
		if seen == nil {
			return // it wants more than we do, such as a version that it knows
		}
		if !strings.EqualFold(seen.ServerName, h.ServerName) || !slices.Equal(seen.SupportedProtos, h.ALPN) {
			t.Fatalf("we see %+v, crypto/tls %q, %q", h, seen.ServerName, seen.SupportedProtos)
		}
	})
}

type readConn struct {
	*recordConn
	r io.Reader
}

func (c *readConn) Read(p []byte) (int, error) { return c.r.Read(p) }
