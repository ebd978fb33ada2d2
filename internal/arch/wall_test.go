package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/palisade-go/palisade/internal/leaktest"
)

const (
	module   = "github.com/palisade-go/palisade"
	root     = "../.."
	maxLines = 600
)

var blocks = map[string]bool{"lb": true, "firewall": true, "tlsx": true, "qps": true, "dbrouter": true}

// mayImport lists the modules outside the standard library that the non-test
// files of a folder may import. The longest matching folder wins.
var mayImport = map[string][]string{
	"internal":           {},
	"lb":                 {"golang.org/x/"},
	"tlsx":               {},
	"tlsx/acme":          {"github.com/caddyserver/certmagic", "github.com/mholt/acmez/v3", "github.com/libdns/libdns", "go.uber.org/zap"},
	"firewall":           {"github.com/gaissmai/bart", "golang.org/x/time"},
	"qps":                {"github.com/VictoriaMetrics/metrics"},
	"dbrouter":           {"github.com/go-sql-driver/mysql"},
	"dbrouter/mysqltest": {"github.com/go-sql-driver/mysql"},
	"examples":           {"github.com/caddyserver/certmagic", "github.com/VictoriaMetrics/metrics", "github.com/go-sql-driver/mysql", "golang.org/x/"},
}

func TestMain(m *testing.M) { leaktest.Main(m) }

// goFile is one source file of the root module.
type goFile struct {
	path   string // slash-separated, relative to the root
	syntax *ast.File
	lines  int
}

func (f goFile) isTest() bool { return strings.HasSuffix(f.path, "_test.go") }

func (f goFile) imports(t *testing.T) []string {
	var out []string
	for _, spec := range f.syntax.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

// sources parses every Go file of the root module; nested modules answer for
// themselves.
func sources(t *testing.T) []goFile {
	t.Helper()
	var files []goFile
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			if rel != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata" || hasGoMod(p)) {
				return fs.SkipDir
			}
			return nil
		}
		if path.Ext(p) != ".go" {
			return nil
		}
		src, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		syntax, err := parser.ParseFile(token.NewFileSet(), rel, src, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		files = append(files, goFile{path: rel, syntax: syntax, lines: strings.Count(string(src), "\n")})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 20 {
		t.Fatalf("found only %d Go files below %s", len(files), root)
	}
	return files
}

func hasGoMod(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

// breach says why a file of folder from must not import p, or returns "".
func breach(from, p string, isTest bool) string {
	fromTop, _, _ := strings.Cut(from, "/")
	rest, ours := strings.CutPrefix(p, module+"/")
	if ours || p == module {
		to, _, _ := strings.Cut(rest, "/")
		switch {
		case blocks[fromTop] && blocks[to] && to != fromTop:
			return "a block must not import another block"
		case blocks[fromTop] && !isTest && to == "internal":
			return "internal packages are test support; blocks use them in tests only"
		case blocks[fromTop] && to == "examples", fromTop == "internal" && to == "examples":
			return "nothing imports the examples"
		case fromTop == "internal" && blocks[to]:
			return "internal packages never import a block"
		case fromTop == "examples" && to == "internal" && !isTest:
			return "examples are what a user writes: they import public packages only"
		}
		return ""
	}
	if host, _, _ := strings.Cut(p, "/"); !strings.Contains(host, ".") {
		return "" // standard library
	}
	if isTest {
		return ""
	}
	for folder := from; folder != "."; folder = path.Dir(folder) {
		allowed, ok := mayImport[folder]
		if !ok {
			continue
		}
		for _, a := range allowed {
			if p == strings.TrimSuffix(a, "/") || strings.HasPrefix(p, strings.TrimSuffix(a, "/")+"/") {
				return ""
			}
		}
		return "not in the list of modules this folder may import"
	}
	return "not in the list of modules this folder may import"
}

func TestWall(t *testing.T) {
	for _, f := range sources(t) {
		for _, p := range f.imports(t) {
			if why := breach(path.Dir(f.path), p, f.isTest()); why != "" {
				t.Errorf("%s imports %s: %s", f.path, p, why)
			}
		}
	}
}

func TestWallSeesABreach(t *testing.T) {
	for _, c := range []struct {
		from, imports string
		isTest, bad   bool
	}{
		{"lb", module + "/firewall", false, true},
		{"lb", module + "/firewall", true, true},
		{"tlsx/acme", module + "/lb", false, true},
		{"lb", module + "/lb/internal/http1", false, false},
		{"lb", module + "/internal/memnet", true, false},
		{"lb", module + "/internal/memnet", false, true},
		{"internal/memnet", module + "/lb", true, true},
		{"examples/threeserver", module + "/lb", false, false},
		{"tlsx", "golang.org/x/net/idna", false, true},
		{"tlsx", "github.com/caddyserver/certmagic", false, true},
		{"tlsx/acme", "github.com/caddyserver/certmagic", false, false},
		{"lb", "golang.org/x/net/http/httpguts", false, false},
		{"firewall", "golang.org/x/timely", false, true},
		{"qps", "net/http", false, false},
	} {
		if got := breach(c.from, c.imports, c.isTest) != ""; got != c.bad {
			t.Errorf("%s imports %s (test %v): breach %v, want %v", c.from, c.imports, c.isTest, got, c.bad)
		}
	}
}

func TestFilesAreShort(t *testing.T) {
	for _, f := range sources(t) {
		if f.lines > maxLines {
			t.Errorf("%s has %d lines; %d is the limit, one concept a file", f.path, f.lines, maxLines)
		}
	}
}

func TestPackagesAreDocumented(t *testing.T) {
	documented := make(map[string]bool)
	for _, f := range sources(t) {
		if f.isTest() {
			continue
		}
		dir := path.Dir(f.path)
		documented[dir] = documented[dir] || f.syntax.Doc != nil
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("package %s has no package comment", dir)
		}
	}
	for b := range blocks {
		if !documented[b] {
			t.Errorf("block %s is missing", b)
		}
	}
}

// TestPackagesCheckForLeaks holds every tested package to a TestMain that
// fails on goroutines left behind.
func TestPackagesCheckForLeaks(t *testing.T) {
	tested, checked := make(map[string]bool), make(map[string]bool)
	for _, f := range sources(t) {
		if !f.isTest() {
			continue
		}
		dir := path.Dir(f.path)
		tested[dir] = true
		for _, p := range f.imports(t) {
			checked[dir] = checked[dir] || p == module+"/internal/leaktest"
		}
		checked[dir] = checked[dir] || f.syntax.Name.Name == "leaktest"
	}
	for dir := range tested {
		if !checked[dir] {
			t.Errorf("the tests of %s do not run under leaktest.Main", dir)
		}
	}
}
