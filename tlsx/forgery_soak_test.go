//go:build soak

package tlsx

import (
	"testing"
	"time"
)

// TestForgeriesSoak is TestForgeries with 100,000 requests.
func TestForgeriesSoak(t *testing.T) { forge(t, 100_000*forgeriesPerRequest, 20*time.Minute) }
