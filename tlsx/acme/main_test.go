package acme

import (
	"testing"

	"github.com/palisade-go/palisade/internal/leaktest"
)

// Two kinds of goroutines are certmagic's and end by no call of ours: its
// FileStorage keeps each of its locks fresh by one that looks only every five
// seconds whether the lock is still there, and the package limits the rate of
// orders by one for each authority and account, for the life of the process.
//
// No test here is parallel: certmagic keeps the challenges that are on in one
// map for the process, by name, so that two orders for the same name answer
// each other's.
func TestMain(m *testing.M) {
	leaktest.Main(m, "certmagic.keepLockfileFresh", "certmagic.(*RingBufferRateLimiter)")
}
