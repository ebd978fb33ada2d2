package lb

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"
)

// grpcHealth is a server of grpc.health.v1.Health, made by hand.
type grpcHealth struct {
	status   int    // of HTTP; 0 means 200
	head     string // Grpc-Status in the head, without a body
	message  []byte
	trailer  string // Grpc-Status
	hang     bool
	problems chan string
}

func grpcMessage(msg ...byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(msg))), msg...)
}

func (s *grpcHealth) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	want := append(grpcMessage(), "\x0a\x0cshop.v1.Cart"...)
	want[4] = 14
	if got := fmt.Sprint(r.Method, r.URL.String(), r.ProtoMajor, r.Header["Content-Type"], r.Header["Te"]); err != nil || !bytes.Equal(body, want) || got != "POST/grpc.health.v1.Health/Check2 [application/grpc] [trailers]" {
		select {
		case s.problems <- fmt.Sprintf("got %s with %q, error %v", got, body, err):
		default:
		}
	}
	h := w.Header()
	h.Set("Content-Type", "application/grpc")
	switch {
	case s.hang:
		<-r.Context().Done()
	case s.status != 0:
		w.WriteHeader(s.status)
	case s.head != "":
		h.Set("Grpc-Status", s.head)
		h.Set("Grpc-Message", "no")
	default:
		w.Write(s.message)
		if s.trailer != "" {
			h.Set(http.TrailerPrefix+"Grpc-Status", s.trailer)
		}
	}
}

func TestGRPCCheck(t *testing.T) {
	serving := grpcMessage(1<<3, 1)
	const text = maxGRPCMessage - 10
	longest := grpcMessage(slices.Concat([]byte{1 << 3, 1, 2<<3 | 2}, binary.AppendUvarint(nil, text), make([]byte, text))...)
	problems := make(chan string, 1)
	for _, c := range []struct {
		name   string
		server grpcHealth
		want   string // in the error; empty for a good one
	}{
		{"serving", grpcHealth{message: serving, trailer: "0"}, ""},
		{"unknown fields", grpcHealth{message: grpcMessage(2<<3|2, 1, 'x', 1<<3, 1, 15<<3, 7), trailer: "0"}, ""},
		{"not serving", grpcHealth{message: grpcMessage(1<<3, 2), trailer: "0"}, "serving status 2, want SERVING (1)"},
		{"no status in the message", grpcHealth{message: grpcMessage(), trailer: "0"}, "serving status 0"},
		{"not implemented", grpcHealth{head: "12"}, `UNIMPLEMENTED: no grpc.health.v1.Health) "no"`},
		{"no such service", grpcHealth{head: "5"}, "NOT_FOUND"},
		{"good status without a message", grpcHealth{head: "0"}, "malformed gRPC message"},
		{"failure after a message", grpcHealth{message: serving, trailer: "14"}, `gRPC status "14"`},
		{"no status", grpcHealth{message: serving}, "without a status"},
		{"half a message", grpcHealth{message: serving[:6], trailer: "0"}, "malformed gRPC message"},
		{"two messages", grpcHealth{message: append(serving, serving...), trailer: "0"}, "malformed gRPC message"},
		{"compressed", grpcHealth{message: append([]byte{1}, serving[1:]...), trailer: "0"}, "malformed gRPC message"},
		{"too long", grpcHealth{message: make([]byte, maxGRPCMessage+1), trailer: "0"}, "more than 4096 bytes"},
		{"no gRPC", grpcHealth{status: 404}, "status 404"},
		{"as long as may be", grpcHealth{message: longest, trailer: "0"}, ""},
		{"fields of all sizes", grpcHealth{message: grpcMessage(slices.Concat(
			[]byte{2<<3 | 1, 1 << 3, 2, 1 << 3, 2, 1 << 3, 2, 1 << 3, 2}, []byte{3<<3 | 5, 1 << 3, 2, 1 << 3, 2}, []byte{1 << 3, 1},
			[]byte{4<<3 | 2, 2, 1 << 3, 2})...), trailer: "0"}, ""},
		{"eight bytes", grpcHealth{message: grpcMessage(1<<3, 1, 2<<3|1, 1<<3, 2, 1<<3, 2, 1<<3, 2, 1<<3, 2), trailer: "0"}, ""},
		{"a string of 2^64-1 bytes", grpcHealth{message: grpcMessage(1<<3, 1, 2<<3|2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1), trailer: "0"}, "malformed gRPC message"},
		{"a field that is cut off", grpcHealth{message: grpcMessage(1<<3, 1, 2<<3|5, 1, 2, 3), trailer: "0"}, "malformed gRPC message"},
		{"a string that is cut off", grpcHealth{message: grpcMessage(1<<3, 1, 2<<3|2, 4, 'a'), trailer: "0"}, "malformed gRPC message"},
		{"the field 0", grpcHealth{message: grpcMessage(1<<3, 1, 0, 1), trailer: "0"}, "malformed gRPC message"},
		{"a number of a field that is too large", grpcHealth{message: grpcMessage(1<<3, 1, 0x80, 0x80, 0x80, 0x80, 0x10, 1), trailer: "0"}, "malformed gRPC message"},
		{"a wrong length", grpcHealth{message: append([]byte{0, 0, 0, 0, 3}, 1<<3, 1), trailer: "0"}, "malformed gRPC message"},
		{"no answer", grpcHealth{hang: true}, "deadline exceeded"},
	} {
		c.server.problems = problems
		srv := httptest.NewUnstartedServer(&c.server)
		srv.Config.Protocols = new(http.Protocols)
		srv.Config.Protocols.SetUnencryptedHTTP2(true)
		srv.Start()
		check := HealthCheck{Probe: ProbeGRPC, Service: "shop.v1.Cart"}
		if c.server.hang {
			check.Timeout = 50 * time.Millisecond
		}
		for _, scheme := range []string{"h2c://", "http://"} {
			s := checkedOnce(t, PoolConfig{Health: &check}, scheme+strings.TrimPrefix(srv.URL, "http://"))
			if c.want == "" && s.State != Healthy || c.want != "" && (s.State != Unhealthy || !strings.Contains(s.LastError, c.want)) {
				t.Errorf("%s, %s: %+v, want %q", c.name, scheme, s, c.want)
			}
		}
		srv.Close()
	}
	select {
	case p := <-problems:
		t.Error(p)
	default:
	}
}

func TestGRPCCheckOverTLS(t *testing.T) {
	srv := httptest.NewUnstartedServer(&grpcHealth{message: grpcMessage(1<<3, 1), trailer: "0"})
	srv.EnableHTTP2 = true
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	conf := PoolConfig{Health: &HealthCheck{Probe: ProbeGRPC, Service: "shop.v1.Cart"}, TLS: &tls.Config{RootCAs: roots}}
	if s := checkedOnce(t, conf, srv.URL); s.State != Healthy {
		t.Errorf("status %+v, want healthy", s)
	}
	conf.TLS = nil
	if s := checkedOnce(t, conf, srv.URL); s.State != Unhealthy || !strings.Contains(s.LastError, "certificate") {
		t.Errorf("nobody trusts the backend, but the status is %+v", s)
	}
}

func TestGRPCCheckRequest(t *testing.T) {
	long := strings.Repeat("s", 200)
	for service, want := range map[string]string{
		"": "\x00\x00\x00\x00\x00", "a": "\x00\x00\x00\x00\x03\x0a\x01a", long: "\x00\x00\x00\x00\xcb\x0a\xc8\x01" + long,
	} {
		if got := appendGRPCCheck(nil, service); string(got) != want {
			t.Errorf("for %q: %q, want %q", service, got, want)
		}
	}
	// The host, and who asks, are told as well.
	asked := make(chan *http.Request, 1)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { asked <- r }))
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	defer srv.Close()
	for _, scheme := range []string{"h2c://", "http://", "tcp://"} {
		checkedOnce(t, PoolConfig{Health: &HealthCheck{Probe: ProbeGRPC, Host: "shop.test"}}, scheme+srv.Listener.Addr().String())
		select {
		case r := <-asked:
			if r.Host != "shop.test" || r.UserAgent() != "palisade-health-check" {
				t.Errorf("%s: asked %s as %s", scheme, r.Host, r.UserAgent())
			}
		default:
			t.Errorf("%s: nobody asked", scheme)
		}
	}
}

func TestGRPCCheckMistakes(t *testing.T) {
	for _, h := range []HealthCheck{
		{Probe: ProbeTCP, Service: "a"}, {Probe: ProbeGRPC, Service: "\xff"}, {Probe: ProbeGRPC, Service: strings.Repeat("a", 257)}, {Probe: ProbeGRPC + 1},
	} {
		if _, err := NewPool(PoolConfig{Health: &h}); err == nil {
			t.Errorf("%+v was taken", h)
		}
	}
}

func FuzzGRPCCheck(f *testing.F) {
	for _, seed := range [][]byte{
		{}, {1 << 3, 1}, {1 << 3, 0x81, 0}, {2<<3 | 2, 3, 'a', 'b', 'c', 1 << 3, 2}, {1<<3 | 5, 1, 0, 0, 0}, {1<<3 | 1, 1, 0, 0, 0, 0, 0, 0, 0},
		{1<<3 | 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, {1<<3 | 3}, {0}, {1 << 3},
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, msg []byte) {
		parseGRPCCheck(msg) // must not panic, whatever the prefix
		status, err := parseGRPCCheck(grpcMessage(msg...))
		more, moreErr := parseGRPCCheck(grpcMessage(append(bytes.Clone(msg), 15<<3|2, 2, 1, 1)...))
		last, lastErr := parseGRPCCheck(grpcMessage(append(bytes.Clone(msg), 1<<3, 1)...))
		if err != nil {
			return
		}
		if moreErr != nil || more != status {
			t.Errorf("%x: status %d, and %d (error %v) with a field that is unknown", msg, status, more, moreErr)
		}
		if lastErr != nil || last != grpcServing {
			t.Errorf("%x: status %d (error %v), want that of the last field", msg, last, lastErr)
		}
	})
}
