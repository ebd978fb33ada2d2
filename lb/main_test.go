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
	if addr := os.Getenv(backendProcess); addr != "" {
		os.Exit(serveBackend(addr))
	}
	leaktest.Main(m)
}
