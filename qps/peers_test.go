package qps

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"
)

// recordShare records what a server has measured, the same whenever it is
// called with the same numbers: calls that ended in three minutes from begin.
func recordShare(m *Meter, server int, begin int64) {
	rng := rand.New(rand.NewPCG(uint64(server), 14))
	for range 20_000 {
		u := m.Upstream([]string{"db1", "db2", "cache"}[rng.IntN(3)])
		took := time.Duration(math.Exp(13 + 2*rng.NormFloat64()))
		end := begin*int64(time.Second) + rng.Int64N(180*int64(time.Second))
		u.observe(m.picker.pick(), end, took, outcome(rng.IntN(50) == 0), 0)
	}
}

// servePeer is the other process: it tells its address and serves its snapshot
// until its standard input ends.
func servePeer(t *testing.T, arguments string) {
	var server int
	var begin int64
	if _, err := fmt.Sscan(arguments, &server, &begin); err != nil {
		t.Fatal(err)
	}
	m := newMeter(t, Config{Server: fmt.Sprint("web", server)})
	recordShare(m, server, begin)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("http://" + ln.Addr().String())
	go http.Serve(ln, m.SnapshotHandler())
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// startPeer returns the URL of another process, the process, and what kills it.
func startPeer(t *testing.T, server int, begin int64) (url string, process *os.Process, kill func()) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestThreeProcesses$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("PALISADE_TEST_PEER=%d %d", server, begin))
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() {
		cmd.Process.Kill()
		in.Close()
		cmd.Wait()
	}
	t.Cleanup(kill)
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "http://") {
		t.Fatalf("server %d says %q, %v", server, line, err)
	}
	return strings.TrimSpace(line), cmd.Process, kill
}

// bySecond is a window without the moment at which it was taken.
func bySecond(w Window) (requests, errs map[int64]uint32, peak Peak) {
	requests, errs = make(map[int64]uint32), make(map[int64]uint32)
	for i, n := range w.Requests {
		if n > 0 {
			requests[w.Second-1-int64(i)] = n
		}
	}
	for i, n := range w.Errors {
		if n > 0 {
			errs[w.Second-1-int64(i)] = n
		}
	}
	return requests, errs, w.Peak
}

// samePooled compares a merged snapshot with that of a Meter that has recorded
// everything itself, to the last bit.
func samePooled(t *testing.T, got, want Snapshot) {
	t.Helper()
	if len(got.Upstreams) != len(want.Upstreams) {
		t.Fatalf("%d upstreams, want %d", len(got.Upstreams), len(want.Upstreams))
	}
	for i, u := range got.Upstreams {
		w := want.Upstreams[i]
		if u.Upstream != w.Upstream || u.OK != w.OK || u.Failed != w.Failed || u.Window.Late != 0 || w.Window.Late != 0 {
			t.Errorf("%s: %d and %d failed, %d late; want %s: %d and %d", u.Upstream, u.OK, u.Failed, u.Window.Late, w.Upstream, w.OK, w.Failed)
		}
		a, errA := json.Marshal(u.Duration)
		b, errB := json.Marshal(w.Duration)
		if errA != nil || errB != nil || string(a) != string(b) {
			t.Errorf("%s: the durations are\n%s\nwant\n%s", u.Upstream, a, b)
		}
		for _, q := range []float64{0.5, 0.9, 0.99, 0.999, 0.9999} {
			if u.Quantile(q) != w.Quantile(q) {
				t.Errorf("%s: quantile %v is %v, want %v", u.Upstream, q, u.Quantile(q), w.Quantile(q))
			}
		}
		requests, errs, peak := bySecond(u.Window)
		wantRequests, wantErrs, wantPeak := bySecond(w.Window)
		if !reflect.DeepEqual(requests, wantRequests) || !reflect.DeepEqual(errs, wantErrs) || peak != wantPeak {
			t.Errorf("%s: the seconds are %v, %v, peak %v; want %v, %v, %v", u.Upstream, requests, errs, peak, wantRequests, wantErrs, wantPeak)
		}
	}
}

// TestThreeProcesses has three processes record a third each of what a Meter here
// records as a whole, and kills one of them.
func TestThreeProcesses(t *testing.T) {
	if arguments := os.Getenv("PALISADE_TEST_PEER"); arguments != "" {
		servePeer(t, arguments)
	}
	begin := time.Now().Unix() - 200
	all, without := newMeter(t, Config{}), newMeter(t, Config{}) // the last one
	var peers []Peer
	var kill func()
	for i := range 3 {
		recordShare(all, i, begin)
		if i < 2 {
			recordShare(without, i, begin)
		}
		var url string
		url, _, kill = startPeer(t, i, begin)
		peers = append(peers, Peer{Name: fmt.Sprint("web", i), URL: url})
	}
	transport := new(http.Transport)
	defer transport.CloseIdleConnections()
	f, err := NewFleet(FleetConfig{
		Peers: peers, Interval: time.Second, // which an answer may take, too
		Logger: slog.New(slog.DiscardHandler),
		Client: &http.Client{Transport: transport},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	until := func(what string, ok func(FleetSnapshot) bool) Snapshot {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			if s := f.Snapshot(); ok(s) {
				return s.Merged
			}
		}
		t.Fatalf("not in time: %s", what)
		return Snapshot{}
	}
	merged := until("three servers", func(s FleetSnapshot) bool {
		for _, p := range s.Peers {
			if p.Lost || p.Snapshot.Version == 0 {
				return false
			}
		}
		return true
	})
	samePooled(t, merged, all.Snapshot())
	kill()
	merged = until("the loss of one, which the others are not", func(s FleetSnapshot) bool {
		return s.Peers[2].Lost && !s.Peers[0].Lost && !s.Peers[1].Lost
	})
	samePooled(t, merged, without.Snapshot())
}
