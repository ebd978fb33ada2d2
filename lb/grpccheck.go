package lb

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// maxGRPCMessage bounds the answer to a check, which has two bytes and what later
// versions may add.
const maxGRPCMessage = 4 << 10

// grpcServing is the one good value of
// grpc.health.v1.HealthCheckResponse.ServingStatus.
const grpcServing = 1

// errGRPCMessage is a message that is none of Protocol Buffers.
var errGRPCMessage = errors.New("malformed gRPC message")

// newGRPCTransport returns the transport of the checks by ProbeGRPC, which speaks
// HTTP/2 to all: gRPC knows nothing else.
func (p *Pool) newGRPCTransport() *http.Transport {
	t := p.newTransport()
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP2(true)
	t.Protocols.SetUnencryptedHTTP2(true)
	return t
}

// checkGRPC calls grpc.health.v1.Health/Check (gRPC over HTTP/2, Requests and
// Responses; GRPC Health Checking Protocol).
func (p *Pool) checkGRPC(ctx context.Context, b *Backend) error {
	u := *b.url
	if u.Scheme == schemeH2C || u.Scheme == schemeTCP {
		u.Scheme = "http"
	}
	u.Path = "/grpc.health.v1.Health/Check"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(appendGRPCCheck(nil, p.conf.Health.Service)))
	if err != nil {
		return err
	}
	req.Host = p.conf.Health.Host
	req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}, "User-Agent": {"palisade-health-check"}}
	res, err := p.checks.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", res.StatusCode)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxGRPCMessage+1))
	if err != nil {
		return err
	}
	if len(body) > maxGRPCMessage {
		return fmt.Errorf("gRPC message of more than %d bytes", maxGRPCMessage)
	}
	end := res.Trailer
	if _, ok := res.Header["Grpc-Status"]; ok {
		end = res.Header // of a response that has nothing else ("Trailers-Only")
	}
	if err := grpcError(end); err != nil {
		return err
	}
	status, err := parseGRPCCheck(body)
	if err != nil {
		return err
	}
	if status != grpcServing {
		return fmt.Errorf("serving status %d, want SERVING (%d)", status, grpcServing)
	}
	return nil
}

// grpcError is the failure that a trailer tells of. Not to know the service, or
// to have no health checks, is a failure like others: the backend is not what it
// was taken for.
func grpcError(h http.Header) error {
	switch status := h.Get("Grpc-Status"); status {
	case "0":
		return nil
	case "":
		return errors.New("gRPC response without a status")
	case "5":
		return fmt.Errorf("gRPC status 5 (NOT_FOUND: no such service) %q", h.Get("Grpc-Message"))
	case "12":
		return fmt.Errorf("gRPC status 12 (UNIMPLEMENTED: no grpc.health.v1.Health) %q", h.Get("Grpc-Message"))
	default:
		return fmt.Errorf("gRPC status %.8q %q", status, h.Get("Grpc-Message"))
	}
}

// appendGRPCCheck appends the message of a HealthCheckRequest: a byte for no
// compression, four for the length, and the field 1, service, if it is not empty.
func appendGRPCCheck(b []byte, service string) []byte {
	var msg []byte
	if service != "" {
		msg = append(msg, 1<<3|2)
		msg = binary.AppendUvarint(msg, uint64(len(service)))
		msg = append(msg, service...)
	}
	b = append(b, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(msg)))
	return append(b, msg...)
}

// parseGRPCCheck returns the field 1, status, of the one HealthCheckResponse that
// b is. Other fields are skipped, and the last of several counts, as Protocol
// Buffers want it.
func parseGRPCCheck(b []byte) (status uint64, err error) {
	if len(b) < 5 || b[0] != 0 || uint64(binary.BigEndian.Uint32(b[1:])) != uint64(len(b)-5) {
		return 0, errGRPCMessage
	}
	for b = b[5:]; len(b) > 0; {
		key, n := binary.Uvarint(b)
		if n <= 0 || key>>3 == 0 || key > 1<<32-1 {
			return 0, errGRPCMessage
		}
		b = b[n:]
		size := 0
		switch key & 7 {
		case 0:
			v, n := binary.Uvarint(b)
			if n <= 0 {
				return 0, errGRPCMessage
			}
			if size = n; key>>3 == 1 {
				status = v
			}
		case 1:
			size = 8
		case 2:
			v, n := binary.Uvarint(b)
			if n <= 0 || v > uint64(len(b)) {
				return 0, errGRPCMessage
			}
			size = n + int(v)
		case 5:
			size = 4
		default: // groups, which this message has never had
			return 0, errGRPCMessage
		}
		if size > len(b) {
			return 0, errGRPCMessage
		}
		b = b[size:]
	}
	return status, nil
}
