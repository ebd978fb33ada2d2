package tlsx

import (
	"crypto/sha256"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// filePoll is how often files are looked at, at most, while they are used.
const filePoll = 200 * time.Millisecond

// watched is something loaded from files and loaded again when they change. It
// looks at the files when it is used, so it needs no goroutine: a change is
// seen by the first use that comes filePoll after it.
type watched[T any] struct {
	files   []string
	parse   func(contents [][]byte) (*T, error)
	logger  *slog.Logger
	changed func(v *T, err error) // called with mu held; nil is not
	current atomic.Pointer[T]
	checked atomic.Int64 // time of the last look, in Unix nanoseconds

	mu         sync.Mutex // held by the one who looks, guards the rest
	sum        [sha256.Size]byte
	unreadable bool // at the last look
}

func watch[T any](logger *slog.Logger, parse func([][]byte) (*T, error), files ...string) (*watched[T], error) {
	if logger == nil {
		logger = slog.Default()
	}
	w := &watched[T]{files: files, parse: parse, logger: logger}
	contents, sum, err := w.read()
	if err != nil {
		return nil, fmt.Errorf("tlsx: %w", err)
	}
	v, err := parse(contents)
	if err != nil {
		return nil, fmt.Errorf("tlsx: %s: %w", strings.Join(files, ", "), err)
	}
	w.sum = sum
	w.current.Store(v)
	w.checked.Store(time.Now().UnixNano())
	return w, nil
}

func (w *watched[T]) read() (contents [][]byte, sum [sha256.Size]byte, err error) {
	h := sha256.New()
	for _, f := range w.files {
		data, err := os.ReadFile(f)
		if err != nil {
			return nil, sum, err
		}
		fmt.Fprintf(h, "%d\n", len(data))
		h.Write(data)
		contents = append(contents, data)
	}
	h.Sum(sum[:0])
	return contents, sum, nil
}

// load returns the present value. What cannot be read or parsed, a pair that
// does not match because only one file has been replaced so far, an expired
// certificate: none of it ever replaces a good value.
func (w *watched[T]) load() *T {
	now := time.Now().UnixNano()
	if since := now - w.checked.Load(); 0 <= since && since < int64(filePoll) || !w.mu.TryLock() {
		return w.current.Load()
	}
	defer w.mu.Unlock()
	w.checked.Store(now)
	contents, sum, err := w.read()
	if err == nil {
		w.unreadable = false
		if sum == w.sum {
			return w.current.Load()
		}
		w.sum = sum // a bad version is complained about once, not at every look
		var v *T
		if v, err = w.parse(contents); err == nil {
			w.current.Store(v)
			w.logger.Info("tlsx: files loaded again", "files", w.files)
			w.tell(v, nil)
			return v
		}
	} else if w.unreadable {
		return w.current.Load()
	} else {
		w.unreadable = true
	}
	w.logger.Warn("tlsx: files cannot be used, the last good ones stay", "files", w.files, "err", err)
	w.tell(w.current.Load(), err)
	return w.current.Load()
}

func (w *watched[T]) tell(v *T, err error) {
	if w.changed != nil {
		w.changed(v, err)
	}
}
