package arch

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// pullsIn lists, for a program that imports one package, every module beyond
// this one and the standard library whose code it compiles.
var pullsIn = map[string][]string{
	"lb":       {"golang.org/x/"},
	"tlsx":     {"golang.org/x/"},
	"qps":      {"github.com/VictoriaMetrics/metrics", "github.com/valyala/fastrand", "github.com/valyala/histogram", "golang.org/x/sys"},
	"dbrouter": {"github.com/go-sql-driver/mysql", "filippo.io/edwards25519"},
	"firewall": {"github.com/gaissmai/bart", "golang.org/x/time"},
}

// TestOutsideModules builds a tiny module outside the tree for each block, and
// checks which modules end up in it and that it cross-compiles.
func TestOutsideModules(t *testing.T) {
	abs, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	sum, err := os.ReadFile(filepath.Join(abs, "go.sum"))
	if err != nil {
		t.Fatal(err)
	}
	mod, err := os.ReadFile(filepath.Join(abs, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	sources(t) // opens every source file, so that a cached result is dropped when one changes
	for block, allowed := range pullsIn {
		t.Run(block, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, "go.sum", string(sum))
			write(t, dir, "go.mod", outsideGoMod(string(mod), abs))
			write(t, dir, "main.go", fmt.Sprintf("package main\n\nimport _ %q\n\nfunc main() {}\n", module+"/"+block))

			deps := goCommand(t, dir, nil, "list", "-deps", "-f", "{{with .Module}}{{.Path}}{{end}}", ".")
			for dep := range strings.FieldsSeq(deps) {
				if dep == module || dep == "example.com/outside" {
					continue
				}
				ok := slices.ContainsFunc(allowed, func(a string) bool {
					return dep == a || strings.HasSuffix(a, "/") && strings.HasPrefix(dep, a)
				})
				if !ok {
					t.Errorf("importing %s pulls in %s; only %v may come along", block, dep, allowed)
				}
			}
			for _, target := range []string{"darwin/arm64", "windows/amd64", "linux/arm64"} {
				goos, goarch, _ := strings.Cut(target, "/")
				env := []string{"GOOS=" + goos, "GOARCH=" + goarch, "CGO_ENABLED=0"}
				goCommand(t, dir, env, "build", "-o", os.DevNull, ".")
			}
		})
	}
}

// outsideGoMod is a go.mod that requires what ours requires, so that nothing
// has to be resolved, and takes the project from its folder.
func outsideGoMod(ours, dir string) string {
	_, body, _ := strings.Cut(ours, "\n")
	return "module example.com/outside\n" + body +
		"\nrequire " + module + " v0.0.0\n\nreplace " + module + " => " + dir + "\n"
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func goCommand(t *testing.T, dir string, env []string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", args...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "GOFLAGS=-mod=mod", "GOWORK=off"), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go %s (%s): %v\n%s", strings.Join(args, " "), strings.Join(env, " "), err, stderr.String())
	}
	return string(out)
}
