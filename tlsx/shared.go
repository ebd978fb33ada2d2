package tlsx

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Storage keeps small values under names, for the processes that share them:
// ticket keys and the internal authority. Names are like those of files.
// Implementations are safe for concurrent use, heed the context and do not keep
// or change the slices they are given.
type Storage interface {
	// Load returns the value of a name. Without one, errors.Is(err,
	// fs.ErrNotExist).
	Load(ctx context.Context, name string) ([]byte, error)
	// Swap replaces the value of a name, provided that it is still old; an empty
	// old stands for no value. Otherwise nothing changes and the error wraps
	// ErrConflict. A value is never empty.
	Swap(ctx context.Context, name string, old, value []byte) error
}

// ErrConflict is wrapped by the error of [Storage.Swap] when somebody else has
// changed the value. Loading it again shows to what.
var ErrConflict = errors.New("tlsx: stored value has changed")

// swapTries bounds how often a swap is tried that others win: each time one of
// them has done what was to be done.
const swapTries = 8

var errAlwaysSecond = fmt.Errorf("tlsx: %d times others were first: %w", swapTries, ErrConflict)

// DirStorage is a [Storage] in a folder, with files of mode 0600. Several
// processes may use the folder at once, also over a file system that has hard
// links but no locks. It is safe for concurrent use.
type DirStorage struct {
	// Path is the folder, made with mode 0700 if it is missing. Empty is an
	// error.
	Path string
}

// Load implements [Storage].
func (d DirStorage) Load(ctx context.Context, name string) ([]byte, error) {
	_, data, err := d.latest(ctx, name)
	return data, err
}

// Swap implements [Storage]. Each version of a value is a file that is made
// once and as a whole: of several that try to make the next one, one succeeds.
// A process that was overtaken by two may find that its own version is there
// but is not the latest; then it has lost, too.
func (d DirStorage) Swap(ctx context.Context, name string, old, value []byte) error {
	version, data, err := d.latest(ctx, name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && len(old) == 0:
		if err := os.MkdirAll(d.Path, 0o700); err != nil {
			return err
		}
	case errors.Is(err, fs.ErrNotExist), err == nil && (len(old) == 0 || !bytes.Equal(data, old)):
		return fmt.Errorf("%s: %w", name, ErrConflict)
	case err != nil:
		return err
	}
	mine := version + 1
	switch err := createFile(d.file(name, mine), value, 0o600); {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("%s: %w", name, ErrConflict)
	case err != nil:
		return err
	}
	versions, err := d.versions(name)
	if err != nil {
		return err
	}
	for _, v := range versions {
		if v > mine {
			return fmt.Errorf("%s: %w", name, ErrConflict)
		}
	}
	for _, v := range versions {
		if v < mine {
			os.Remove(d.file(name, v)) // left over at worst, and superseded
		}
	}
	return nil
}

// latest returns the newest version of a value, -1 if there is none.
func (d DirStorage) latest(ctx context.Context, name string) (int, []byte, error) {
	if d.Path == "" {
		return -1, nil, errors.New("tlsx: DirStorage.Path is empty, want a folder")
	}
	if base, number, _ := cutLast(name, "."); !validPath(name) || strings.Contains(name, "/") || base != "" && strings.Trim(number, "0123456789") == "" {
		return -1, nil, fmt.Errorf("tlsx: storage name %q, want letters, digits, '.', '-' and '_', and no number after the last dot", name)
	}
	for {
		if err := ctx.Err(); err != nil {
			return -1, nil, err
		}
		versions, err := d.versions(name)
		if err != nil {
			return -1, nil, err
		}
		newest := -1
		for _, v := range versions {
			newest = max(newest, v)
		}
		if newest < 0 {
			return -1, nil, fmt.Errorf("%s: %w", filepath.Join(d.Path, name), fs.ErrNotExist)
		}
		data, err := os.ReadFile(d.file(name, newest))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a newer one has taken its place
		}
		return newest, data, err
	}
}

func (d DirStorage) versions(name string) ([]int, error) {
	entries, err := os.ReadDir(d.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var out []int
	for _, e := range entries {
		rest, ok := strings.CutPrefix(e.Name(), name)
		if !ok {
			continue
		}
		if rest == "" {
			out = append(out, 0)
			continue
		}
		if v, err := strconv.Atoi(strings.TrimPrefix(rest, ".")); err == nil && v > 0 && d.file(name, v) == filepath.Join(d.Path, e.Name()) {
			out = append(out, v)
		}
	}
	return out, err
}

// file is where a version is kept; the first has the plain name.
func (d DirStorage) file(name string, version int) string {
	if version > 0 {
		name += "." + strconv.Itoa(version)
	}
	return filepath.Join(d.Path, name)
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return "", s, false
	}
	return s[:i], s[i+len(sep):], true
}
