package qps

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestStartTime(t *testing.T) {
	self := []byte("7 (a b) ) R 1 7 7 0 -1 4194304 1 0 0 0 1 2 0 0 20 0 5 0 250 1000 10 0\n")
	system := []byte("cpu 1 2 3\nintr 5\nctxt 9\nbtime 1800000000\nprocesses 3\n")
	if got, want := startTime(self, system), time.Unix(1800000002, 0).UTC(); got != want {
		t.Errorf("started %v, want %v", got, want)
	}
	for _, c := range [][2]string{
		{"", string(system)}, {"7 (x) R 1", string(system)}, {string(self), "cpu 1\n"}, {string(self), "btime x\n"},
	} {
		if got := startTime([]byte(c[0]), []byte(c[1])); !got.IsZero() {
			t.Errorf("%q, %q: started %v, want not known", c[0], c[1], got)
		}
	}
}

func FuzzStartTime(f *testing.F) {
	f.Add([]byte("7 (a) R 1 7 7 0 -1 4194304 1 0 0 0 1 2 0 0 20 0 5 0 250 1000 10 0\n"), []byte("btime 1800000000\n"))
	f.Fuzz(func(t *testing.T, self, system []byte) {
		if _, err := json.Marshal(startTime(self, system)); err != nil {
			t.Errorf("a time that JSON cannot hold: %v", err)
		}
	})
}

func TestOpenFilesSeesAnotherFile(t *testing.T) {
	before := openFiles()
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := openFiles(); got != before+1 {
		t.Errorf("%d open files after one more, %d before", got, before)
	}
}

func TestTrafficAndPressure(t *testing.T) {
	const dev = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 9999999   50    0    0    0     0          0         0  9999999   50    0    0    0     0       0          0
  eth0:    1000    2    0    0    0     0          0         0      300    4    0    0    0     0       0          0
docker0: 5 1 0 0 0 0 0 0 7 1 0 0 0 0 0 0
  bad0: x
`
	if in, out := traffic([]byte(dev)); in != 1005 || out != 307 {
		t.Errorf("in %d, out %d; want 1005, 307", in, out)
	}
	for text, want := range map[string]time.Duration{
		"some avg10=0.00 avg60=1.50 avg300=0.77 total=2500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=9\n": 2500 * time.Millisecond,
		"": 0, "full total=3": 0, "some total=x": 0, "some": 0, "some total=18446744073709551615": 0,
	} {
		if got := pressure([]byte(text)); got != want {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

// TestProcessOnLinux checks what is known of the process here only.
func TestProcessOnLinux(t *testing.T) {
	p := newMeter(t, Config{}).Snapshot().Process
	if p.CPU <= 0 || p.ResidentBytes < 1<<20 || p.OpenFiles < 3 || p.MaxFiles < uint64(p.OpenFiles) {
		t.Errorf("%+v", p)
	}
	if age := time.Since(p.Start); age < -2*time.Second || age > time.Hour {
		t.Errorf("the process is %v old", age)
	}
}

// TestHead reads files that are shorter and longer than the buffer, and than all
// that is read of one.
func TestHead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	sizes := []int{0, 1, headBytes - 1, headBytes, headBytes + 1, 5 * headBytes, mostBytes, mostBytes + 5}
	before := openFiles()
	for _, size := range sizes {
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(i % 251)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if got := head(path, make([]byte, headBytes)); !bytes.Equal(got, data[:min(size, mostBytes)]) {
			t.Errorf("of %d bytes %d are read, or not as they are", size, len(got))
		}
	}
	if got := openFiles(); got > before+len(sizes)/2 {
		t.Errorf("%d files are open, %d before", got, before)
	}
	for _, path := range []string{path + "x", filepath.Dir(path)} {
		if got := head(path, make([]byte, headBytes)); got != nil {
			t.Errorf("%s: %d bytes", path, len(got))
		}
	}
}
