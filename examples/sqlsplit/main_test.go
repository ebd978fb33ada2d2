package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"

	"github.com/palisade-go/palisade/dbrouter/mysqltest"
	"github.com/palisade-go/palisade/internal/leaktest"
)

func TestMain(m *testing.M) { leaktest.Main(m) }

func TestSplit(t *testing.T) {
	for script, want := range map[string][]string{
		"":                                       nil,
		" ; ;\n":                                 nil,
		"SELECT 1":                               {"SELECT 1"},
		"SELECT 1; SELECT 2;":                    {"SELECT 1", "SELECT 2"},
		"SELECT ';', \";\", `;`; SELECT 2":       {"SELECT ';', \";\", `;`", "SELECT 2"},
		"SELECT 'a\\';b'; SELECT 'c'';d'":        {"SELECT 'a\\';b'", "SELECT 'c'';d'"},
		"SELECT 1 /* ; */; -- ;\nSELECT 2":       {"SELECT 1 /* ; */", "-- ;\nSELECT 2"},
		"# ;\nSELECT 1--1;SELECT 2":              {"# ;\nSELECT 1--1", "SELECT 2"},
		"SELECT 'open; SELECT 2":                 {"SELECT 'open; SELECT 2"},
		"DELIMITER //\nA; B//\ndelimiter ;\nC;D": {"A; B", "C", "D"},
		"-- x\r\nDELIMITER //\r\nA; B//\r\nDELIMITER ;\r\nC;\r\n": {"-- x\r\nA; B", "C"},
		"\ufeffSELECT 1;\r\nSELECT 2;\r\n":                        {"SELECT 1", "SELECT 2"},
		"SELECT 1; -- done; or not\n# ;\n/* ; */ ;":               {"SELECT 1"},
		"--\tx;\n--\r\n--":                                        nil,
		"/*! SELECT 1 */; /*M!100100 SELECT 2 */":                 {"/*! SELECT 1 */", "/*M!100100 SELECT 2 */"},
		"SELECT 'DELIMITER //\n;'; SELECT a\nDELIMITER FROM t":    {"SELECT 'DELIMITER //\n;'", "SELECT a\nDELIMITER FROM t"},
		"/* a */ DELIMITER //\n;SELECT 1":                         {"/* a */ DELIMITER //", "SELECT 1"},
	} {
		if got := split(script); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", script, got, want)
		}
	}
}

// FuzzSplit: nothing but white space, semicolons, delimiter lines and comments is
// lost, and no statement is empty.
func FuzzSplit(f *testing.F) {
	f.Add("SELECT ';'; # x\nSELECT 2")
	f.Fuzz(func(t *testing.T, script string) {
		got := split(script)
		for _, statement := range got {
			if strings.TrimSpace(statement) == "" {
				t.Errorf("%q has an empty statement", got)
			}
		}
		if strings.Contains(strings.ToUpper(script), "DELIMITER") || strings.Contains(script, "--") || strings.Contains(script, "/*") ||
			strings.ContainsAny(script, "#\ufeff") {
			return
		}
		clean := func(s string) string {
			return strings.Map(func(r rune) rune {
				if r == ';' || unicode.IsSpace(r) {
					return -1
				}
				return r
			}, s)
		}
		if have, want := clean(strings.Join(got, ";")), clean(script); have != want {
			t.Errorf("%q became %q", want, have)
		}
	})
}

// store holds one number.
type store struct{ n atomic.Int64 }

func (s *store) Handle(_ context.Context, q mysqltest.Query) (mysqltest.Result, error) {
	if strings.HasPrefix(q.SQL, "UPDATE") {
		s.n.Add(1)
		return mysqltest.Result{AffectedRows: 1}, nil
	}
	return mysqltest.Result{Columns: mysqltest.Columns("n"), Rows: [][]any{{s.n.Load()}}}, nil
}

func TestRun(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	primary, err := mysqltest.New(mysqltest.Config{Handler: new(store), Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer primary.Close()
	replica, err := mysqltest.New(mysqltest.Config{Handler: new(store), Logger: quiet, Source: primary, ReadOnly: true, Lag: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer replica.Close()
	args := []string{"-node", primary.DSN(), "-node", replica.DSN()}
	const script = "UPDATE t SET n = n + 1;\nSELECT n FROM t;\nSELECT n FROM t FOR UPDATE;\n"
	var out strings.Builder
	if err := run(t.Context(), args, strings.NewReader(script), &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"UPDATE t SET n = n + 1\n  " + primary.Addr() + " primary: changes data, ", "    1 rows affected\n",
		"SELECT n FROM t\n  " + replica.Addr() + " replica: read, ", "    n\n    1\n",
		"SELECT n FROM t FOR UPDATE\n  " + primary.Addr() + " primary: locks rows, ",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	file := filepath.Join(t.TempDir(), "script.sql")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	before := len(primary.Queries())
	out.Reset()
	if err := run(t.Context(), append(args, "-explain", file), nil, &out, io.Discard); err != nil {
		t.Fatal(err)
	}
	if want := "SELECT n FROM t\n  read → replica " + replica.Addr() + ": SELECT; sees every write made through this router\n"; !strings.Contains(out.String(), want) {
		t.Errorf("no %q in\n%s", want, out.String())
	}
	for _, q := range primary.Queries()[before:] {
		if strings.HasPrefix(q, "UPDATE") {
			t.Error("-explain ran a statement")
		}
	}
}

func TestMistakes(t *testing.T) {
	for _, c := range []struct {
		args  []string
		want  string
		usage bool
	}{
		{nil, "no -node", true},
		{[]string{"-none"}, "-none", true},
		{[]string{"-node", "x"}, "-node number 1", true},
		{[]string{"-node", "tcp(127.0.0.1:1)/", "-node", ""}, "-node number 2: it is empty", true},
		{[]string{"-node", "tcp(127.0.0.1:1)/", "-consistency", "some"}, `"some"`, true},
		{[]string{"-node", "tcp(127.0.0.1:1)/", "-buffer", "2m"}, "-buffer is 2m0s", true},
		{[]string{"-node", "tcp(127.0.0.1:1)/", "-buffer", "-1s"}, "-buffer is -1s", true},
		{[]string{"-node", "tcp(127.0.0.1:1)/", "a", "b"}, "2 files", true},
		{[]string{"-node", "tcp(127.0.0.1:1)/", "/nowhere/a.sql"}, "/nowhere/a.sql", false},
	} {
		var stderr strings.Builder
		err := run(t.Context(), c.args, strings.NewReader(""), io.Discard, &stderr)
		if err == nil || !strings.Contains(err.Error(), c.want) || stderr.Len() > 0 {
			t.Errorf("%q: %v, %q; want %q and nothing printed yet", c.args, err, stderr.String(), c.want)
		}
		if _, ok := errors.AsType[usageError](err); ok != c.usage {
			t.Errorf("%q: a mistake of the command line %v, want %v", c.args, ok, c.usage)
		}
	}
	var help strings.Builder
	if err := run(t.Context(), []string{"-h"}, nil, &help, io.Discard); !errors.Is(err, flag.ErrHelp) || !strings.Contains(help.String(), "-node") {
		t.Errorf("%v, %q", err, help.String())
	}
}

// closing makes its server read-only after the first write, for a while.
type closing struct {
	store
	server *mysqltest.Server
}

func (c *closing) Handle(ctx context.Context, q mysqltest.Query) (mysqltest.Result, error) {
	result, err := c.store.Handle(ctx, q)
	if result.AffectedRows > 0 && c.n.Load() == 1 {
		c.server.SetReadOnly(true)
		time.AfterFunc(200*time.Millisecond, func() { c.server.SetReadOnly(false) })
	}
	return result, err
}

// TestBuffer: a write is held back while there is no primary.
func TestBuffer(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{{nil, ""}, {[]string{"-buffer", "0"}, "1 of 2 statements failed"}} {
		h := new(closing)
		s, err := mysqltest.New(mysqltest.Config{Handler: h, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		h.server = s
		err = run(t.Context(), append(c.args, "-node", s.DSN()), strings.NewReader("UPDATE t SET n = 1; UPDATE t SET n = 2"), io.Discard, io.Discard)
		if c.want == "" && (err != nil || h.n.Load() != 2) || c.want != "" && (err == nil || err.Error() != c.want) {
			t.Errorf("%q: %v, %d writes", c.args, err, h.n.Load())
		}
	}
}

// TestSecrets: a mistake in a DSN does not put its password on the terminal.
func TestSecrets(t *testing.T) {
	var stderr strings.Builder
	err := run(t.Context(), []string{"-node", "app:secret@tcp(127.0.0.1:1)"}, strings.NewReader(""), io.Discard, &stderr)
	if err == nil || strings.Contains(err.Error()+stderr.String(), "secret") {
		t.Errorf("%v\n%s", err, stderr.String())
	}
}

func TestPrintable(t *testing.T) {
	for value, want := range map[string]string{
		"":                              "",
		"a b\u00a0ü":                    `"a b\u00a0ü"`,
		"x\ty\n":                        `"x\ty\n"`,
		"\x1b[2J":                       `"\x1b[2J"`,
		"\x00\xff":                      "x'00ff'",
		strings.Repeat("x", maxValue+1): strings.Repeat("x", maxValue) + "… (1025 bytes)",
	} {
		if got := printable(value); got != want {
			t.Errorf("%q is printed as %s, want %s", value, got, want)
		}
	}
}

// odd answers with values that are no plain text, with no result, and not at all.
type odd struct{ hung chan struct{} }

func (o odd) Handle(ctx context.Context, q mysqltest.Query) (mysqltest.Result, error) {
	switch {
	case strings.HasPrefix(q.SQL, "CALL"):
		return mysqltest.Result{}, nil
	case strings.HasPrefix(q.SQL, "SELECT hang"):
		close(o.hung)
		<-ctx.Done()
		return mysqltest.Result{}, ctx.Err()
	}
	return mysqltest.Result{Columns: mysqltest.Columns("a", "b", "c"), Rows: [][]any{{"\x00\xff", "x\ny", nil}}}, nil
}

func TestOutput(t *testing.T) {
	h := odd{make(chan struct{})}
	primary, err := mysqltest.New(mysqltest.Config{Handler: h, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer primary.Close()
	var out strings.Builder
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		<-h.hung
		cancel()
	}()
	script := "SELECT a, b, c;\nCALL p();\nSELECT hang;\nSELECT never;\n"
	err = run(ctx, []string{"-node", primary.DSN()}, strings.NewReader(script), &out, io.Discard)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("after an interrupt: %v", err)
	}
	for _, want := range []string{"    a\tb\tc\n    x'00ff'\t\"x\\ny\"\tNULL\n", "    done\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "never") {
		t.Errorf("it went on after an interrupt:\n%s", out.String())
	}
}
