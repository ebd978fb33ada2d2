package pebbletest

import (
	"bytes"
	"testing"

	"github.com/palisade-go/palisade/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func TestStart(t *testing.T) {
	s := Start(t, Config{HTTPPort: 5, TLSPort: 6})
	dir, err := s.get(s.Directory)
	if err != nil || !bytes.Contains(dir, []byte("newOrder")) {
		t.Errorf("directory: %v %s", err, dir)
	}
	if s.Roots(t) == nil {
		t.Error("no roots")
	}
}
