package lb

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

func TestServersHijack(t *testing.T) {
	matrix(t, func(t *testing.T, m mode) {
		s := m.serve(t, frontConf{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/body" {
				io.ReadAll(r.Body)
			}
			nc, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer nc.Close()
			if _, err := w.Write([]byte("x")); err != http.ErrHijacked {
				t.Errorf("Write: %v, want %v", err, http.ErrHijacked)
			}
			if _, _, err := http.NewResponseController(w).Hijack(); err != http.ErrHijacked {
				t.Errorf("Hijack again: %v, want %v", err, http.ErrHijacked)
			}
			line, err := rw.ReadString('\n')
			fmt.Fprintf(rw, "got %q %v\n", line, err)
			rw.Flush()
			line, err = rw.ReadString('\n')
			fmt.Fprintf(rw, "then %q %v\n", line, err)
			rw.Flush()
		})})
		for _, head := range []string{getRoot, "POST /body HTTP/1.1\nHost: h\nContent-Length: 3\n\nabc"} {
			c := s.dial()
			c.send(head + "early\n")
			if line, err := c.r.ReadString('\n'); line != "got \"early\\r\\n\" <nil>\n" {
				t.Fatalf("%q %v", line, err)
			}
			c.send("late\n")
			if rest, err := io.ReadAll(c.r); string(rest) != "then \"late\\r\\n\" <nil>\n" || err != nil {
				t.Fatalf("%q %v", rest, err)
			}
		}
	})
}

// TestServersHijackSlowly hijacks when the server may have begun to look for the
// client's end, and has the client's next bytes in hand.
func TestServersHijackSlowly(t *testing.T) {
	matrix(t, func(t *testing.T, m mode) {
		asked, sent := make(chan struct{}), make(chan struct{})
		s := m.serve(t, frontConf{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Context().Done() // somebody wants to know
			close(asked)
			<-sent
			nc, rw, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer nc.Close()
			line, err := rw.ReadString('\n')
			if r.Context().Err() != nil {
				t.Error("the context has ended")
			}
			fmt.Fprintf(nc, "%q %v", line, err)
		})})
		c := s.dial()
		c.send(getRoot)
		<-asked
		c.send("0123456789\n")
		close(sent)
		if got, err := io.ReadAll(c.r); string(got) != `"0123456789\r\n" <nil>` {
			t.Errorf("%q %v", got, err)
		}
	})
}

// TestServersFlushes: what was flushed is there before the handler goes on.
func TestServersFlushes(t *testing.T) {
	matrix(t, func(t *testing.T, m mode) {
		for _, head := range []string{"GET / HTTP/1.1\nHost: h\n\n", "GET /length HTTP/1.1\nHost: h\n\n", "GET / HTTP/1.0\n\n"} {
			goOn := make(chan struct{})
			s := m.serve(t, frontConf{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/length" {
					w.Header().Set("Content-Length", "3")
				}
				rc := http.NewResponseController(w)
				for _, part := range []string{"", "a", "b", "c"} {
					io.WriteString(w, part)
					if err := rc.Flush(); err != nil {
						t.Error(err)
					}
					<-goOn
				}
			})})
			c := s.dial()
			c.send(head)
			res, err := http.ReadResponse(c.r, nil)
			if err != nil {
				t.Fatal(err)
			}
			goOn <- struct{}{}
			for _, want := range "abc" {
				var b [1]byte
				if _, err := io.ReadFull(res.Body, b[:]); err != nil || b[0] != byte(want) {
					t.Fatalf("%q %v, want %c", b, err, want)
				}
				goOn <- struct{}{}
			}
			if rest, err := io.ReadAll(res.Body); len(rest) > 0 || err != nil {
				t.Errorf("then %q %v", rest, err)
			}
		}
	})
}

// TestServersSaysContinue: when the handler reads, and not before.
func TestServersSaysContinue(t *testing.T) {
	matrix(t, func(t *testing.T, m mode) {
		begun, read := make(chan struct{}, 1), make(chan struct{})
		s := m.serve(t, frontConf{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/no" {
				http.Error(w, "no", http.StatusForbidden)
				return
			}
			begun <- struct{}{}
			<-read
			dump(w, r)
		})})
		c := s.dial()
		c.send("POST / HTTP/1.1\nHost: h\nExpect: 100-continue\nContent-Length: 3\n\n")
		<-begun
		close(read)
		if head := c.head(); head != "HTTP/1.1 100 Continue\n" {
			t.Fatalf("%q", head)
		}
		c.send("abc")
		if _, body := c.response("POST"); !strings.Contains(body, `body "abc"`) {
			t.Errorf("%q", body)
		}
		c.send("POST /no HTTP/1.1\nHost: h\nExpect: 100-continue\nContent-Length: 3\n\n")
		if res, _ := c.response("POST"); res.StatusCode != http.StatusForbidden || !res.Close {
			t.Errorf("%s, close %v; want no 100, and the end: the body may come or not", res.Status, res.Close)
		}
		if strings.HasPrefix(m.name, "nethttp") {
			return // it waits for the body all the same before it closes
		}
		if _, err := c.r.ReadByte(); err != io.EOF {
			t.Errorf("%v, want the end", err)
		}
	})
}

func TestServersFullDuplex(t *testing.T) {
	matrix(t, func(t *testing.T, m mode) {
		s := m.serve(t, frontConf{handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			rc := http.NewResponseController(w)
			if err := rc.EnableFullDuplex(); err != nil {
				t.Error(err)
			}
			for lines := bufio.NewScanner(r.Body); lines.Scan(); rc.Flush() {
				fmt.Fprintln(w, strings.ToUpper(lines.Text()))
			}
		})})
		c := s.dial()
		for range 2 {
			c.send("POST / HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\n\n")
			var body *bufio.Reader
			for _, word := range []string{"one", "two", "three"} {
				fmt.Fprintf(c, "%x\r\n%s\n\r\n", len(word)+1, word)
				if body == nil {
					res, err := http.ReadResponse(c.r, nil)
					if err != nil {
						t.Fatal(err)
					}
					body = bufio.NewReader(res.Body)
				}
				if line, err := body.ReadString('\n'); line != strings.ToUpper(word)+"\n" {
					t.Fatalf("%q %v", line, err)
				}
			}
			c.send("0\n\n")
			if rest, err := io.ReadAll(body); len(rest) > 0 || err != nil {
				t.Errorf("then %q %v", rest, err)
			}
		}
	})
}

func TestServersLogsPanics(t *testing.T) {
	matrix(t, func(t *testing.T, m mode) {
		s := m.serve(t, frontConf{handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/abort" {
				panic(http.ErrAbortHandler)
			}
			panic("what went wrong")
		})})
		for _, path := range []string{"/abort", "/"} {
			c := s.dial()
			c.send("GET " + path + " HTTP/1.1\nHost: h\n\n")
			if _, err := c.r.ReadByte(); err != io.EOF {
				t.Errorf("%s: %v, want the end", path, err)
			}
			if logged := strings.Contains(s.log.String(), "panic"); path == "/abort" && logged {
				t.Errorf("an abort is logged: %s", s.log.String())
			}
		}
		eventually(t, "the panic is logged", func() bool { return strings.Contains(s.log.String(), "what went wrong") })
	})
}

// TestServersLargeUnreadBody: more than is worth reading ends the connection, and
// the client gets its answer all the same.
func TestServersLargeUnreadBody(t *testing.T) {
	matrix(t, func(t *testing.T, m mode) {
		s := m.serve(t, frontConf{handler: http.HandlerFunc(hello)})
		for _, head := range []string{"POST / HTTP/1.1\nHost: h\nContent-Length: 600000\n\n", "POST / HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\n\n927c0\n"} {
			c := s.dial()
			go func() {
				io.WriteString(c, strings.ReplaceAll(head, "\n", "\r\n"))
				c.Write(make([]byte, 600_000))
			}()
			if res, body := c.response("POST"); body != "hello" || !res.Close {
				t.Errorf("%q, close %v; want the end", body, res.Close)
			}
		}
	})
}

func TestServersSpeaksHTTP2(t *testing.T) {
	matrix(t, func(t *testing.T, m mode) {
		s := m.serve(t, frontConf{h2c: true, nextProtos: []string{"h2", "http/1.1"}, handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _, err := net.SplitHostPort(r.RemoteAddr)
			body, _ := io.ReadAll(r.Body)
			fmt.Fprint(w, r.Proto, " ", string(body), " ", r.TLS != nil, " ", err)
		})})
		for major := 1; major <= 2; major++ {
			client := s.client()
			protocols := new(http.Protocols)
			protocols.SetHTTP1(major == 1)
			protocols.SetHTTP2(major == 2)
			protocols.SetUnencryptedHTTP2(major == 2 && !m.tls)
			client.Transport.(*http.Transport).Protocols = protocols
			for range 3 {
				res, err := client.Post(s.url("/"), "text/plain", strings.NewReader("hi"))
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if want := fmt.Sprintf("%s hi %v <nil>", []string{"HTTP/1.1", "HTTP/2.0"}[major-1], m.tls); string(body) != want || err != nil {
					t.Errorf("%q %v, want %q", body, err, want)
				}
			}
			client.CloseIdleConnections()
		}
	})
}

// TestServersPlainToTLS: who speaks HTTP to a server of HTTPS learns so.
func TestServersPlainToTLS(t *testing.T) {
	matrix(t, func(t *testing.T, m mode) {
		if !m.tls {
			return
		}
		s := m.serve(t, frontConf{handler: http.HandlerFunc(hello)})
		c := &conn{t, s.open(), nil}
		c.r = bufio.NewReader(c.Conn)
		c.send(getRoot)
		if res, _ := c.response("GET"); res.StatusCode != http.StatusBadRequest {
			t.Error(res.Status)
		}
	})
}
