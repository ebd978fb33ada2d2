package lb

import (
	"fmt"
	"net/http"
	"time"
)

// StatusClientClosed is the status that an [Event] shows for a client that went
// away before it had its response: nginx's number, which is never sent.
const StatusClientClosed = 499

// Event is the record of one request, made when it has ended. It is plain data.
type Event struct {
	// Request is the client's request. It must not be changed, nor its body read. Of
	// one that a Server has refused it has what was understood: if not even the first
	// line, then that line is its RequestURI, cut, and its Method and Proto are empty.
	Request *http.Request
	// Backend is the ID of the backend that was tried last. Empty means none was.
	Backend string
	// Attempts counts the backends that were tried.
	Attempts int
	// Status is what the client saw, 101 if the connection was upgraded, or
	// StatusClientClosed if it did not stay to see. 0 means that a hook panicked.
	Status int
	// Err is what went wrong, an [*Error] or an error of a hook; nil if nothing
	// did. Status may be 200 all the same: a response that breaks off half-way
	// has had its status.
	Err error
	// Start is when the request came to the proxy, Duration what passed from
	// then to the end of the response or of the upgraded connection.
	Start    time.Time
	Duration time.Duration
	// RequestBytes and ResponseBytes count the bodies, or what was carried on an
	// upgraded connection.
	RequestBytes, ResponseBytes int64
	// Upgraded says that the connection was upgraded.
	Upgraded bool
	// Hedged says that a second backend was asked because the first was slow (see
	// Hedge). It is counted among Attempts.
	Hedged bool
	// RequestID and Traceparent are what the backend was told, of
	// ProxyConfig.RequestID and ProxyConfig.Trace. Empty means nothing.
	RequestID, Traceparent string
}

// Error is a request that was not answered as it should. Its text may tell
// about the inner network; it is for logs, not for clients.
type Error struct {
	// Status is what the client is told: 400, 408 and 413 for a body that
	// cannot be read, 499 (nothing is sent) if it has gone, 502, 503 or 504; or
	// what Server.OnRefused lists.
	Status int
	// Backend is the ID of the backend that was tried last. Empty means none was.
	Backend string
	// Err is the cause, never nil.
	Err error
}

// Error implements error.
func (e *Error) Error() string {
	if e.Backend == "" {
		return fmt.Sprintf("lb: %d: %v", e.Status, e.Err)
	}
	return fmt.Sprintf("lb: %d: backend %s: %v", e.Status, e.Backend, e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }
