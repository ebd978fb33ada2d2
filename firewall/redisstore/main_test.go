package redisstore

import (
	"testing"

	"github.com/palisade-go/palisade/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }
