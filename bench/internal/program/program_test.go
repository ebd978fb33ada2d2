package program

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/palisade-go/palisade/bench/internal/report"
)

// TestFind looks for programs on a PATH of its own.
func TestFind(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	write := func(name, script string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	write("there", `echo "this is $1"; echo more`)
	write("broken", "exit 3")
	write("caddy", `echo "caddy $1"`)
	if p := Find("there", "version"); p.Absent != nil || p.Path != filepath.Join(dir, "there") || p.Version != "this is version" {
		t.Errorf("a program that is there: %+v", p)
	}
	if p := Find("broken"); p.Absent != nil || p.Version != "exit status 3" {
		t.Errorf("a program that fails: %+v", p)
	}
	if p := Find("none-such"); p.Absent == nil {
		t.Errorf("a program that is not there: %+v", p)
	}
	if p := Caddy(t.Context(), report.Options{Cache: t.TempDir(), Log: t.Logf}); p.Absent != nil || p.Version != "caddy version" {
		t.Errorf("caddy on PATH: %+v", p)
	}
}

// TestCaddyInCache takes the one that was built before.
func TestCaddyInCache(t *testing.T) {
	t.Setenv("PATH", "")
	cache := t.TempDir()
	path := filepath.Join(cache, "caddy")
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho v9\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if p := Caddy(t.Context(), report.Options{Cache: cache, Log: t.Logf}); p.Absent != nil || p.Path != path || p.Version != "v9" {
		t.Errorf("caddy in the cache: %+v", p)
	}
}

func TestBuildFails(t *testing.T) {
	p := Build(t.Context(), t.TempDir(), t.TempDir(), "./none")
	if p.Absent == nil || !strings.Contains(p.Absent.Error(), "go build ./none") {
		t.Errorf("a package that is not there: %+v", p)
	}
}
