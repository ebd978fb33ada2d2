//go:build soak

package firewall

import "testing"

func TestSoakSwapUnderLoad(t *testing.T) { swapUnderLoad(t, 100_000, 100) }
