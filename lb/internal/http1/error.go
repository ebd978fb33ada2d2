package http1

import "errors"

// ErrTimeout is the error for a response that has not begun in time.
var ErrTimeout = errors.New("http1: no response in time")

// ErrClosed is the error for a connection that ended before it said anything.
var ErrClosed = errors.New("http1: the backend closed the connection without an answer")

// Phase says how far an exchange came before it failed.
type Phase int

const (
	// Invalid requests were refused as such; no backend was asked.
	Invalid Phase = iota
	// Connecting means that there was no connection, so that nothing was sent.
	Connecting
	// Sent means that the request, or a part of it, may have been received.
	Sent
	// Answered means that a part of a response had come.
	Answered
)

// Error is why [Client.Do] got no response. It is plain data.
type Error struct {
	Phase Phase
	Err   error
}

// Error implements error.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }
