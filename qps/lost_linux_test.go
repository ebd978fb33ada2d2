package qps

import (
	"log/slog"
	"net/http"
	"os"
	"syscall"
	"testing"
	"time"
)

// TestLostProcesses kills one process and stops another, as if its machine hung. A
// Fleet shows each as lost no later than two seconds after it last heard of it, and
// leaves it out of the sum; the one that goes on is back.
func TestLostProcesses(t *testing.T) {
	var peers []Peer
	var processes []*os.Process
	for i, name := range []string{"lives", "killed", "stopped"} {
		url, process, _ := startPeer(t, i, time.Now().Unix()-200)
		peers = append(peers, Peer{Name: name, URL: url})
		processes = append(processes, process)
	}
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	f, err := NewFleet(FleetConfig{
		Peers: peers, Client: &http.Client{Transport: transport}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// until polls until the peers are lost as given, and checks each snapshot on the
	// way: whoever was silent for two seconds must be lost.
	until := func(what string, want ...bool) time.Duration {
		t.Helper()
		start := time.Now()
		for time.Since(start) < 60*time.Second {
			now := time.Now()
			s := f.Snapshot()
			ok := true
			requests := uint64(0)
			for i, p := range s.Peers {
				if silent := now.Sub(p.Heard); silent >= 2*time.Second && !p.Lost {
					t.Fatalf("%s: nothing was heard of %s for %v, and it is not lost", what, p.Name, silent)
				}
				if !p.Lost && p.Snapshot.Version != 0 {
					for _, u := range p.Snapshot.Upstreams {
						requests += u.Requests()
					}
				}
				ok = ok && p.Lost == want[i] && p.Snapshot.Version != 0
			}
			for _, u := range s.Merged.Upstreams {
				requests -= u.Requests()
			}
			if requests != 0 {
				t.Fatalf("%s: the sum is not that of the peers which are not lost, but off by %d", what, int64(requests))
			}
			if ok {
				return time.Since(start)
			}
			time.Sleep(5 * time.Millisecond)
		}
		t.Fatalf("%s: after a minute %+v", what, f.Snapshot().Peers)
		return 0
	}
	until("at first", false, false, false)
	if err := processes[1].Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	t.Logf("a killed process is shown after %v", until("killed", false, true, false))
	if err := processes[2].Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Logf("a stopped process is shown after %v", until("stopped", false, true, true))
	if err := processes[2].Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	until("continued", false, true, false)
}
