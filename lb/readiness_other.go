//go:build !unix

package lb

import (
	"net"
	"time"

	"github.com/palisade-go/palisade/lb/internal/http1"
)

// readiness is for systems that tell when a connection can be read.
type readiness struct{ waited bool }

func newReadiness(net.Conn, func() bool) *readiness { return nil }

func (*readiness) reads() bool { return false }

func (*readiness) foundAtOnce(time.Time) bool { return false }

func (*readiness) read(*http1.Reader) error { return nil }

func (*readiness) sendAndRead([]byte, *http1.Reader) (int, error) { return 0, nil }
