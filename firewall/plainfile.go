package firewall

import (
	"errors"
	"os"
	"syscall"
)

var errNotPlain = errors.New("not a plain file")

// openPlain opens a file for reading, and nothing else: a pipe would hold up
// whoever reads the files, which may be the goroutine that watches over them all,
// until somebody writes into it, and a device may never end. O_NONBLOCK has the
// opening itself not wait, before it is known what was opened.
func openPlain(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &os.PathError{Op: "read", Path: path, Err: errNotPlain}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
