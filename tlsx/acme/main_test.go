package acme

import (
	"testing"

	"github.com/palisade-go/palisade/internal/leaktest"
)

// certmagic's FileStorage keeps each of its locks fresh by a goroutine that
// looks only every five seconds whether the lock is still there.
func TestMain(m *testing.M) { leaktest.Main(m, "certmagic.keepLockfileFresh") }
