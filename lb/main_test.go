package lb

import (
	"os"
	"testing"

	"github.com/palisade-go/palisade/internal/leaktest"
)

func TestMain(m *testing.M) {
	if os.Getenv(costKind) != "" {
		os.Exit(costProcess())
	}
	leaktest.Main(m)
}
