//go:build !race

package tlsx

import (
	"errors"
	"fmt"
	"net"
	"runtime"
	"testing"
	"time"
)

// TestUnknownFlood is 20,000 new names a second from as many clients, for half a
// minute: one decision for each name, in bounded memory, and a known name is
// served throughout.
func TestUnknownFlood(t *testing.T) {
	n := newUnknownNames(&UnknownNames{Total: 1 << 30})
	start := time.Now()
	n.learn("a.test", answerHad, start)
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before, most := heap(), uint64(0)
	addr := &net.TCPAddr{IP: net.IP{10, 0, 0, 0}, Port: 1}
	for second := range 30 {
		now := start.Add(time.Duration(second) * time.Second)
		for i := range 20_000 {
			name := fmt.Sprintf("%d.%d.test", second, i)
			addr.IP[1], addr.IP[2], addr.IP[3] = byte(i>>16), byte(i>>8), byte(i)
			if turn, err := n.mayAsk(name, addr, now); err != nil || turn != nil {
				t.Fatalf("%s: %v", name, err)
			}
			n.learn(name, answerNone, now)
			if i%1000 == 0 {
				if _, err := n.mayAsk(name, addr, now.Add(5*time.Second)); !errors.Is(err, ErrUnknownName) {
					t.Fatalf("%s again: %v", name, err)
				}
				if _, err := n.mayAsk("a.test", addr, now); err != nil {
					t.Fatalf("a known name: %v", err)
				}
			}
		}
		if second%10 == 9 {
			most = max(most, heap()-min(before, heap()))
		}
	}
	if most > 32<<20 {
		t.Errorf("%d MB", most>>20)
	}
	t.Logf("%.1f MB", float64(most)/(1<<20))
	runtime.KeepAlive(n)
}
