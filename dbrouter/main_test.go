package dbrouter

import (
	"fmt"
	"os"
	"testing"

	"github.com/palisade-go/palisade/internal/leaktest"
)

func TestMain(m *testing.M) {
	if os.Getenv(pairProcess) != "" {
		if err := servePairs(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	leaktest.Main(m)
}
