package main

import (
	"io"
	"os"
	"sync"
	"syscall"

	"github.com/palisade-go/palisade/lb"
)

// accessLog writes a line for each request.
type accessLog struct {
	out   io.Writer // nil: nobody wants any
	close func() error

	mu sync.Mutex // guards writes to out
}

// openAccessLog opens a file to append to; "-" is stdout, and "" is none.
func openAccessLog(path string, stdout io.Writer) (*accessLog, error) {
	switch path {
	case "":
		return new(accessLog), nil
	case "-":
		return &accessLog{out: stdout}, nil
	}
	// A pipe that nobody reads is an error, and not waited for.
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY|syscall.O_NONBLOCK, 0o640)
	if err != nil {
		return nil, err
	}
	return &accessLog{out: f, close: f.Close}, nil
}

func (l *accessLog) done() func(lb.Event) {
	if l.out == nil {
		return nil
	}
	return func(e lb.Event) {
		line := e.AppendCombined(nil)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.out.Write(line) // a request does not fail because a disk is full
	}
}

func (l *accessLog) Close() error {
	if l.close == nil {
		return nil
	}
	return l.close()
}
