// Package program finds the programs that are compared, and builds those that
// are not installed.
package program

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/palisade-go/palisade/bench/internal/report"
)

// caddyVersion is the version that is built if none is on PATH.
const caddyVersion = "v2.11.9"

// Program is one that can be started, or why it cannot.
type Program struct {
	Path    string
	Version string // what it says of itself, or its package
	Absent  error  // why there is none
}

// Find looks for a program on PATH and where Debian has its servers. The
// arguments make it tell its version.
func Find(name string, version ...string) Program {
	path, err := lookPath(name)
	if err != nil {
		return Program{Absent: err}
	}
	return Program{Path: path, Version: firstLine(path, version...)}
}

func lookPath(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is neither on PATH nor in /usr/sbin", name)
}

// firstLine runs a program for what it says of itself.
func firstLine(path string, args ...string) string {
	out, err := exec.Command(path, args...).CombinedOutput()
	if err != nil {
		return err.Error()
	}
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}

// Caddy builds Caddy from its module if it is neither on PATH nor in the cache.
func Caddy(ctx context.Context, o report.Options) Program {
	if p := Find("caddy", "version"); p.Absent == nil {
		return p
	}
	path := filepath.Join(o.Cache, "caddy")
	if _, err := os.Stat(path); err != nil {
		o.Log("building caddy %s", caddyVersion)
		cmd := exec.CommandContext(ctx, "go", "install", "github.com/caddyserver/caddy/v2/cmd/caddy@"+caddyVersion)
		cmd.Env = append(os.Environ(), "GOBIN="+o.Cache)
		if out, err := cmd.CombinedOutput(); err != nil {
			return Program{Absent: fmt.Errorf("go install: %w: %s", err, lastLine(out))}
		}
	}
	return Program{Path: path, Version: firstLine(path, "version")}
}

// Build compiles a program of ours: the package pkg, seen from the folder from,
// into the folder to.
func Build(ctx context.Context, from, to, pkg string) Program {
	p := Program{Path: filepath.Join(to, filepath.Base(pkg)), Version: pkg}
	cmd := exec.CommandContext(ctx, "go", "build", "-o", p.Path, pkg)
	cmd.Dir = from
	if out, err := cmd.CombinedOutput(); err != nil {
		p.Absent = fmt.Errorf("go build %s: %w: %s", pkg, err, lastLine(out))
	}
	return p
}

func lastLine(out []byte) string {
	text := strings.TrimSpace(string(out))
	return text[strings.LastIndexByte(text, '\n')+1:]
}
