//go:build unix

package pebbletest

import "syscall"

// Pause stops the server, which keeps its connections, until Resume.
func (s *Server) Pause() error { return s.process.Signal(syscall.SIGSTOP) }

// Resume ends a Pause.
func (s *Server) Resume() error { return s.process.Signal(syscall.SIGCONT) }
