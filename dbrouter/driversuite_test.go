//go:build soak

package dbrouter

import (
	"bufio"
	"bytes"
	"encoding/json"
	"maps"
	"os"
	osexec "os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestSoakDriverSuite runs go-sql-driver's own tests, once with the driver itself
// and once through a Router over a primary and a replica: each test has to end
// in the same way.
//
// The tests are in the driver's package, so that what they import may not import
// it. They are built from a copy under another name, therefore, whose errors are
// those of the real one, and whose registrations reach it as well.
func TestSoakDriverSuite(t *testing.T) {
	c := cluster(t, 1)
	dir := driverCopy(t)
	conf := c.Nodes()[0].AppConfig()
	env := append(os.Environ(), "MYSQL_TEST_USER="+conf.User, "MYSQL_TEST_PASS="+conf.Passwd, "MYSQL_TEST_ADDR="+conf.Addr,
		"MYSQL_TEST_DBNAME="+conf.DBName, "MYSQL_TEST_REPLICA="+c.Nodes()[1].Addr, "GOFLAGS=-mod=mod", "GOPROXY=off")
	direct := runSuite(t, dir, env, "own")
	through := runSuite(t, dir, env, "routed")
	ends := make(map[string]int)
	for _, name := range slices.Sorted(maps.Keys(direct)) {
		ends[direct[name]]++
		if through[name] != direct[name] {
			t.Errorf("%s: %s through the router, %s directly", name, through[name], direct[name])
		}
	}
	for name := range through {
		if direct[name] == "" {
			t.Errorf("%s: %s through the router, not run directly", name, through[name])
		}
	}
	t.Logf("directly: %v", ends)
	if ends["pass"] < 100 {
		t.Errorf("only %d tests pass directly", ends["pass"])
	}
}

// leftOut are tests of what a router has otherwise, or that cannot be run here.
var leftOut = []string{
	// They look into the driver's own type of connection.
	"TestPing", "TestQueryMultipleResults",
	// A state of the session lasts from one statement of the pool to the next: with
	// a router it ends with the connection that was checked out.
	"TestRejectReadOnly",
	// Dialing and logging in are done for the statement, with its context, and fail
	// with an error of their own: a router has done so before, and tells why there
	// is no primary.
	"TestDialUnknownError", "TestDialNonRetryableNetErr", "TestDialTemporaryNetErr", "TestEmptyPassword", "TestConnectorObeysDialTimeouts",
	// An address on the internet must not answer.
	"TestConnectorReturnsTimeout",
}

// runSuite returns how each test ended.
func runSuite(t *testing.T, dir string, env []string, driverName string) map[string]string {
	t.Helper()
	cmd := osexec.Command("go", "test", "-count=1", "-json", "-timeout=120s", "-skip=^("+strings.Join(leftOut, "|")+")$", "-ldflags=-X suite/mysql.driverName=own -X suite/mysql.driverNameTest="+driverName, ".")
	cmd.Dir, cmd.Env = dir, env
	out, err := cmd.Output()
	ends := make(map[string]string)
	failures := new(bytes.Buffer)
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		var e struct{ Action, Test, Output string }
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.Test == "" {
			continue
		}
		switch e.Action {
		case "pass", "fail", "skip":
			ends[e.Test] = e.Action
		case "output":
			failures.WriteString(e.Output)
		}
	}
	if len(ends) == 0 {
		t.Fatalf("%s: %v: %s", driverName, err, out)
	}
	if name := os.Getenv("DBROUTER_SUITE_OUTPUT"); name != "" {
		if err := os.WriteFile(name+"."+driverName, failures.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return ends
}

// driverCopy makes the copy, in a module of its own.
func driverCopy(t *testing.T) string {
	t.Helper()
	const realPath = "github.com/go-sql-driver/mysql"
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	out, err := osexec.Command("go", "list", "-m", "-f", "{{.Dir}} {{.Version}}", realPath).Output()
	if err != nil {
		t.Fatal(err)
	}
	source, version, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	dir := t.TempDir()
	read := func(name string) string {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files, err := filepath.Glob(filepath.Join(source, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		write(filepath.Base(f), bothDrivers(filepath.Base(f), read(f)))
	}
	write("routed_test.go", read(filepath.Join("testdata", "driversuite.go.txt")))
	write("go.sum", read(filepath.Join(root, "go.sum")))
	// What the driver needs is in our own list.
	needs := regexp.MustCompile(`(?m)^\s*(filippo\.io/edwards25519 \S+)`).FindStringSubmatch(read(filepath.Join(root, "go.mod")))
	if needs == nil {
		t.Fatal("go.mod does not list what the driver needs")
	}
	const ours = "github.com/palisade-go/palisade"
	write("go.mod", "module suite/mysql\n\ngo 1.26\n\nrequire (\n\t"+realPath+" "+version+"\n\t"+needs[1]+"\n\t"+ours+" v0.0.0\n)\n\nreplace "+ours+" => "+root+"\n")
	return dir
}

// bothDrivers has a file of the copy share the real driver's errors, and tell it
// of registrations.
func bothDrivers(name, text string) string {
	before := text
	switch name {
	case "errors.go":
		text = regexp.MustCompile(`(?m)^\t(Err\w+)( +)= errors\.New\(.*\)$`).ReplaceAllString(text, "\t$1$2= real.$1")
		i, j := strings.Index(text, "type MySQLError struct"), strings.Index(text, "func (me *MySQLError) Error()")
		text = text[:i] + "type MySQLError = real.MySQLError\n\n" + dropFuncs(text[j:])
		text = strings.Replace(text, "\t\"fmt\"\n", "", 1)
	case "infile.go", "utils.go", "auth.go":
		text = regexp.MustCompile(`(?m)^func ((?:Reg|Dereg)ister\w+)\((\w+) \w+\) \{$`).ReplaceAllString(text, "$0\n\treal.$1($2)")
		text = regexp.MustCompile(`(?m)^func (Register\w+)\((\w+) \w+, (\w+) [^{]*\{$`).ReplaceAllString(text, "$0\n\treal.$1($2, $3)")
	}
	if text != before {
		text = strings.Replace(text, "import (\n", "import (\n\treal \"github.com/go-sql-driver/mysql\"\n", 1)
	}
	return text
}

// dropFuncs drops the methods at the beginning.
func dropFuncs(text string) string {
	for strings.HasPrefix(strings.TrimSpace(text), "func (me *MySQLError)") {
		_, text, _ = strings.Cut(text, "\n}\n")
	}
	return text
}
