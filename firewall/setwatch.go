package firewall

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// raceTime is how long the time of a file may take to tell two writes apart.
const raceTime = 2 * time.Second

// WatchFile loads the set from a file, and again whenever the file changes, until
// the context ends; it looks every so often, which must be a positive time. Files
// that are replaced by renaming are noticed too; a pipe or a device in the place of
// one is an error. Report is called after each load that follows a change, and with
// the error of one that failed, for which the set stays as it was; nil is told
// nothing.
func (s *PrefixSet) WatchFile(ctx context.Context, path string, every time.Duration, report func(error)) {
	watch(ctx, []*fileWatch{{set: s, path: path}}, every, func(_ string, err error) {
		if report != nil {
			report(err)
		}
	})
}

// WatchFiles is [PrefixSet.WatchFile] for every set that the text of the policy
// keeps in a file. Names that are not absolute are relative to dir. Report is told
// the name of the set. What was loaded takes effect in every [Firewall] that has
// the policy.
func (p Policy) WatchFiles(ctx context.Context, dir string, every time.Duration, report func(set string, err error)) {
	var all []*fileWatch
	for _, name := range slices.Sorted(maps.Keys(p.Sets)) {
		if s := p.Sets[name]; s != nil && s.file != "" {
			path := s.file
			if !filepath.IsAbs(path) {
				path = filepath.Join(dir, path)
			}
			all = append(all, &fileWatch{set: s, name: name, path: path})
		}
	}
	watch(ctx, all, every, func(set string, err error) {
		if report != nil {
			report(set, err)
		}
	})
}

// fileWatch is what is known of one file.
type fileWatch struct {
	set        *PrefixSet
	name, path string
	last       os.FileInfo // of the last load; nil: there was no file
	failed     bool        // the last load
	racy       bool        // it may have been written again at the same time
	started    bool
}

func watch(ctx context.Context, files []*fileWatch, every time.Duration, report func(set string, err error)) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		for _, w := range files {
			if changed, err := w.check(); changed {
				report(w.name, err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// check loads the file if it has changed. It says whether there is something to
// report.
func (w *fileWatch) check() (report bool, err error) {
	info, err := os.Stat(w.path)
	if err != nil {
		report = !w.started || w.last != nil || !w.failed
		w.started, w.last, w.failed = true, nil, true
		return report, err
	}
	changed := w.last == nil || !os.SameFile(w.last, info) || w.last.Size() != info.Size() || !w.last.ModTime().Equal(info.ModTime())
	if !changed && !w.racy {
		return false, nil
	}
	err = w.set.loadFile(w.path)
	report = changed || (err != nil) != w.failed
	w.started, w.last, w.failed = true, info, err != nil
	w.racy = time.Since(info.ModTime()) < raceTime
	return report, err
}
