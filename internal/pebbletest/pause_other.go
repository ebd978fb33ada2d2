//go:build !unix

package pebbletest

import "errors"

// Pause is not possible here.
func (s *Server) Pause() error { return errors.ErrUnsupported }

// Resume is not possible here.
func (s *Server) Resume() error { return errors.ErrUnsupported }
