package lb

import (
	"net"
	"time"
)

// TCPEvent is the record of one connection of a [TCPProxy], made when it has
// ended. It is plain data.
type TCPEvent struct {
	// Client is the address of the client, and Local what it has connected to: as
	// the proxy in front says, if there is a header.
	Client, Local net.Addr
	// Header is the PROXY protocol header that came in; nil if none did. It must
	// not be changed.
	Header *ProxyHeader
	// ServerName and ALPN are what the client has asked for, if the proxy has
	// looked: with Routes, or where the listener ends TLS.
	ServerName string
	ALPN       []string
	// Backend is the ID of the backend that was tried last. Empty means none was.
	Backend string
	// Attempts counts the backends that were tried.
	Attempts int
	// Err is why the connection did not end as it should; nil if it did.
	Err error
	// Start is when the connection came, Connect how long it took to reach the
	// backend, and Duration how long all has lasted.
	Start             time.Time
	Connect, Duration time.Duration
	// FromClient and FromBackend count the bytes that were carried, without those
	// of PROXY protocol headers.
	FromClient, FromBackend int64
}
