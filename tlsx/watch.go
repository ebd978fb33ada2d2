package tlsx

import (
	"crypto/sha256"
	"errors"
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
	unreadable bool      // at the last look
	early      time.Time // the files are good from then on; zero if there is nothing to wait for
}

// tooEarlyError is parse's about files that will be good as they are.
type tooEarlyError struct {
	what string // is too early
	from time.Time
}

func (e *tooEarlyError) Error() string {
	return e.what + " not valid before " + e.from.Format(time.RFC3339)
}

func watch[T any](logger *slog.Logger, parse func([][]byte) (*T, error), files ...string) (*watched[T], error) {
	if logger == nil {
		logger = slog.Default()
	}
	w := &watched[T]{files: files, parse: parse, logger: logger}
	contents, sum, err := w.read(os.ReadFile)
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

func (w *watched[T]) read(readFile func(string) ([]byte, error)) (contents [][]byte, sum [sha256.Size]byte, err error) {
	h := sha256.New()
	for _, f := range w.files {
		data, err := readFile(f)
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

// readAgain is os.ReadFile for a file that was read before: a pipe that has come
// in its place would hold up the handshake that looks, and every later look, until
// somebody writes into it. The first time a pipe is fine: it is how shells hand
// over secrets.
func readAgain(file string) ([]byte, error) {
	info, err := os.Stat(file)
	if err == nil && !info.Mode().IsRegular() {
		err = &os.PathError{Op: "read", Path: file, Err: errNotRegular}
	}
	if err != nil {
		return nil, err
	}
	return os.ReadFile(file)
}

var errNotRegular = errors.New("not a regular file")

// load returns the present value. What cannot be read or parsed, a pair that
// does not match because only one file has been replaced so far, a certificate or
// a revocation list that has expired or is not valid yet: none of it ever replaces
// a good value.
func (w *watched[T]) load() *T {
	now := time.Now().UnixNano()
	if since := now - w.checked.Load(); 0 <= since && since < int64(filePoll) || !w.mu.TryLock() {
		return w.current.Load()
	}
	defer w.mu.Unlock()
	w.checked.Store(now)
	contents, sum, err := w.read(readAgain)
	if err == nil {
		w.unreadable = false
		if settled := w.early.IsZero() || time.Now().Before(w.early); sum == w.sum && settled {
			return w.current.Load()
		}
		w.sum, w.early = sum, time.Time{} // a bad version is complained about once, not at every look
		var v *T
		if v, err = w.parse(contents); err == nil {
			w.current.Store(v)
			w.logger.Info("tlsx: files loaded again", "files", w.files)
			w.tell(v, nil)
			return v
		}
		if e, ok := errors.AsType[*tooEarlyError](err); ok {
			w.early = e.from
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
