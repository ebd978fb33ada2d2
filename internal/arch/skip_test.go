package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestSkips holds tests to the one reason for which they may skip: a program or
// a right is missing, which PALISADE_REQUIRE_ALL=1 makes a failure. What takes
// long or prints figures has a build tag instead, so that a skip is always news.
func TestSkips(t *testing.T) {
	for _, f := range sources(t) {
		if !strings.HasSuffix(f.path, "_test.go") && !strings.HasPrefix(f.path, "internal/") {
			continue
		}
		src, err := os.ReadFile(filepath.Join(root, f.path))
		if err != nil {
			t.Fatal(err)
		}
		for _, where := range heedlessSkips(t, f.path, string(src)) {
			t.Errorf("%s skips without regard to PALISADE_REQUIRE_ALL", where)
		}
	}
}

func TestSkipsAreFound(t *testing.T) {
	const head = "package p\n\nimport (\"os\"; \"testing\")\n\nfunc TestX(t *testing.T) {\n"
	for body, want := range map[string]int{
		"t.Skip(1)":                                    1,
		"if testing.Short() { t.SkipNow() }":           1,
		"func() { t.Skipf(`%d`, 1) }()":                1,
		"t.Log(`no t.Skip()`)":                         0,
		"os.Getenv(`PALISADE_REQUIRE_ALL`); t.Skip(1)": 0,
	} {
		if got := heedlessSkips(t, "x_test.go", head+body+"\n}\n"); len(got) != want {
			t.Errorf("%s: found %q, want %d", body, got, want)
		}
	}
}

// heedlessSkips are the functions of a file that skip without reading the
// variable that forbids it.
func heedlessSkips(t *testing.T, name, src string) []string {
	t.Helper()
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, name, src, 0)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Body == nil {
			continue
		}
		text := src[set.Position(f.Pos()).Offset:set.Position(f.End()).Offset]
		if strings.Contains(text, "PALISADE_REQUIRE_ALL") {
			continue
		}
		ast.Inspect(f.Body, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if sel, ok := call.Fun.(*ast.SelectorExpr); ok && (sel.Sel.Name == "Skip" || sel.Sel.Name == "Skipf" || sel.Sel.Name == "SkipNow") {
				found = append(found, name+": "+f.Name.Name)
			}
			return true
		})
	}
	return found
}
