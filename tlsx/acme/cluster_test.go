package acme

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/palisade-go/palisade/internal/pebbletest"
	"github.com/palisade-go/palisade/tlsx"
)

// childConfig is "directory|CA file|storage folder|HTTP port", for a child.
const childConfig = "PALISADE_TEST_ACME_CHILD"

var clusterNames = []string{"one.test", "two.test", "three.test"}

// TestOneOrderPerName has two processes get the same names over the same
// storage at once, while a third answers the challenges of both: each name is
// ordered once.
func TestOneOrderPerName(t *testing.T) {
	if conf := os.Getenv(childConfig); conf != "" {
		child(t, strings.Split(conf, "|"))
		return
	}
	p := pebbletest.Start(t, pebbletest.Config{})
	dir := t.TempDir()
	door, _ := newSource(t, p, Config{Names: clusterNames, Storage: &certmagic.FileStorage{Path: dir}})
	serve(t, listen(t, p.HTTPPort), door.HTTPHandler(http.NotFoundHandler()))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	outputs := make([]string, 2)
	var wg sync.WaitGroup
	for i := range outputs {
		wg.Go(func() {
			cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestOneOrderPerName$", "-test.timeout=90s")
			cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s|%s|%s|%d", childConfig, p.Directory, p.CAFile, dir, p.HTTPPort))
			out, err := cmd.CombinedOutput()
			if outputs[i] = string(out); err != nil {
				t.Errorf("child %d: %v\n%s", i, err, out)
			}
		})
	}
	wg.Wait()
	both := strings.Join(outputs, "")
	for _, name := range clusterNames {
		if n := strings.Count(both, "obtained "+name+"\n"); n != 1 {
			t.Errorf("%s was ordered %d times:\n%s", name, n, both)
		}
		if n := strings.Count(both, "serves "+name+"\n"); n != 2 {
			t.Errorf("%s is served by %d processes:\n%s", name, n, both)
		}
	}
}

// child is one of the processes of TestOneOrderPerName. It tells what it orders
// and, at the end, what it has.
func child(t *testing.T, conf []string) {
	t.Helper()
	pem, err := os.ReadFile(conf[1])
	if err != nil {
		t.Fatal(err)
	}
	ca, err := tlsx.ParseRoots(pem)
	if err != nil {
		t.Fatal(err)
	}
	var port int
	if _, err := fmt.Sscan(conf[3], &port); err != nil {
		t.Fatal(err)
	}
	out := bufio.NewWriter(os.Stdout)
	var mu sync.Mutex // guards out
	say := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(out, format, args...)
	}
	s, err := New(Config{
		Names: clusterNames, Storage: &certmagic.FileStorage{Path: conf[2]}, Directory: conf[0], RootCAs: ca.Pool(),
		HTTPPort: port, DisableTLSALPNChallenge: true,
		OnEvent: func(e Event) { say("%s %s\n", e.Kind, e.Name) },
	})
	if err != nil {
		t.Fatal(err)
	}
	obtain(t, s)
	for _, c := range s.Certificates() {
		say("serves %s\n", c.DNSNames[0])
	}
	s.Close()
	out.Flush()
	// Without the check for leaks: certmagic keeps its idle connection to the
	// authority, which lives on here.
	os.Exit(0)
}

// faultyStorage is a storage that is read-only while it is told to be.
type faultyStorage struct {
	certmagic.Storage
	readOnly atomic.Bool
	refused  atomic.Int32
}

var errReadOnly = errors.New("read-only file system")

func (f *faultyStorage) Store(ctx context.Context, key string, value []byte) error {
	if f.readOnly.Load() {
		f.refused.Add(1)
		return errReadOnly
	}
	return f.Storage.Store(ctx, key, value)
}

func (f *faultyStorage) Lock(ctx context.Context, name string) error {
	if f.readOnly.Load() {
		f.refused.Add(1)
		return errReadOnly
	}
	return f.Storage.Lock(ctx, name)
}

// TestFaults has the authority reject half of all nonces and stand still for a
// while, and the storage begin read-only.
func TestFaults(t *testing.T) {
	p := pebbletest.Start(t, pebbletest.Config{Env: []string{"PEBBLE_WFE_NONCEREJECT=50"}})
	storage := &faultyStorage{Storage: &certmagic.FileStorage{Path: t.TempDir()}}
	storage.readOnly.Store(true)
	s, _ := newSource(t, p, Config{Names: []string{"a.test"}, Storage: storage})
	serve(t, listen(t, p.HTTPPort), s.HTTPHandler(http.NotFoundHandler()))
	s.Start()
	for deadline := time.Now().Add(time.Minute); storage.refused.Load() < 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the storage was tried %d times", storage.refused.Load())
		}
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Obtain(over); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "read-only") {
		t.Errorf("while the storage is read-only: %v", err)
	}
	if err := p.Pause(); err != nil {
		t.Fatal(err)
	}
	storage.readOnly.Store(false)
	time.Sleep(time.Second)
	if err := p.Resume(); err != nil {
		t.Fatal(err)
	}
	obtain(t, s)
	if len(s.Certificates()) != 1 {
		t.Error("no certificate after all of that")
	}
}
