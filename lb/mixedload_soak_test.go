//go:build soak

package lb

import (
	"flag"
	"math/rand/v2"
	"testing"
	"time"
)

var (
	soakLength = flag.Duration("soak.length", 10*time.Minute, "how long TestSoakServer takes")
	soakSeed   = flag.Uint64("soak.seed", rand.Uint64(), "what its clients are made from")
)

// TestSoakServer is a mixed load for as long as one likes:
//
//	go test -tags soak -run TestSoakServer -timeout 0 ./lb -soak.length 1h
func TestSoakServer(t *testing.T) {
	runMixedLoad(t, *soakLength, 32, *soakSeed)
}
