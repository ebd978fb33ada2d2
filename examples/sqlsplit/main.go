// Sqlsplit runs the statements of a file, or of standard input, through a
// dbrouter.Router, and prints for each where it went and why.
//
//	go run ./examples/sqlsplit -node DSN -node DSN … [-consistency session] [-buffer 10s] [-explain] [FILE]
//
// A DSN is that of go-sql-driver, such as app:secret@tcp(10.0.0.1:3306)/shop.
// All statements are done by one session, so that SET, BEGIN and temporary
// tables mean what they do in any client. A statement for the primary is held back
// for a moment while there is none, as in a failover; see -buffer. With -explain
// nothing is run.
package main

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/go-sql-driver/mysql"

	"github.com/palisade-go/palisade/dbrouter"
)

const (
	maxScript = 64 << 20 // bytes
	readyWait = 10 * time.Second
	firstRows = 10      // printed of a result
	maxValue  = 1 << 10 // bytes printed of a value
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	switch _, isUsage := errors.AsType[usageError](err); {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case isUsage:
		fmt.Fprintln(os.Stderr, "sqlsplit:", err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "sqlsplit:", err)
		os.Exit(1)
	}
}

// usageError is a command line that cannot be used.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// options are those of the command line.
type options struct {
	conf    dbrouter.Config
	explain bool
	file    string // empty: standard input
}

func parse(args []string, help io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("sqlsplit", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	var dsns []string
	f.Func("node", "`DSN` of a server; repeat it for each", func(dsn string) error {
		dsns = append(dsns, dsn) // an error here would tell the whole of it, with the password
		return nil
	})
	consistency := f.String("consistency", "session", "what reads see: session, global, eventual or primary")
	f.DurationVar(&o.conf.BufferWait, "buffer", 10*time.Second, "how `long` a statement for the primary is held back while there is none, as in a failover; 0: it fails at once")
	f.BoolVar(&o.explain, "explain", false, "say where each statement would go, without running it")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			f.SetOutput(help)
			f.Usage()
		}
		return o, err
	}
	for i, dsn := range dsns {
		c, err := mysql.ParseDSN(dsn)
		if err == nil && dsn == "" {
			err = errors.New("it is empty, want USER:PASSWORD@tcp(HOST:PORT)/DATABASE")
		}
		if err != nil {
			return o, fmt.Errorf("-node number %d: %w", i+1, err)
		}
		o.conf.Nodes = append(o.conf.Nodes, dbrouter.Node{Config: c})
	}
	switch *consistency {
	case "session":
		o.conf.Consistency = dbrouter.PerSession
	case "global":
		o.conf.Consistency = dbrouter.Global
	case "eventual":
		o.conf.Consistency = dbrouter.Eventual
	case "primary":
		o.conf.Consistency = dbrouter.PrimaryOnly
	default:
		return o, fmt.Errorf("-consistency is %q, want session, global, eventual or primary", *consistency)
	}
	if o.conf.BufferWait < 0 || o.conf.BufferWait > time.Minute {
		return o, fmt.Errorf("-buffer is %v, want 0 to 1m", o.conf.BufferWait)
	}
	if len(o.conf.Nodes) == 0 {
		return o, errors.New("there is no -node, want one for each server")
	}
	if f.NArg() > 1 {
		return o, fmt.Errorf("there are %d files, want one at most", f.NArg())
	}
	o.file = f.Arg(0)
	return o, nil
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	o, err := parse(args, stdout)
	if err != nil {
		return usageError{err}
	}
	statements, err := read(o.file, stdin)
	if err != nil {
		return err
	}
	var last dbrouter.Statement
	o.conf.OnStatement = func(_ context.Context, s dbrouter.Statement) { last = s } // there is but one session
	o.conf.Logger = slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	router, err := dbrouter.New(o.conf)
	if err != nil {
		return err
	}
	defer router.Close()
	ready, cancel := context.WithTimeout(ctx, readyWait)
	defer cancel()
	if err := router.Ready(ready); err != nil {
		return err
	}
	settle(ready, router)
	conn, err := router.DB().Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	failed := 0
	for _, s := range statements {
		if o.explain {
			fmt.Fprintf(stdout, "%s\n  %v\n", headline(s), router.Explain(ctx, s))
			continue
		}
		last = dbrouter.Statement{}
		result, err := do(ctx, conn, s)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			failed++
			result = "error: " + err.Error() + "\n"
		}
		fmt.Fprintf(stdout, "%s\n  %s\n%s", headline(s), where(last), indent(result))
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d statements failed", failed, len(statements))
	}
	return nil
}

// where says where a statement was done.
func where(s dbrouter.Statement) string {
	if s.Node == "" {
		return "no node"
	}
	return fmt.Sprintf("%s %v: %s, %v", s.Node, s.Role, s.Reason, s.Duration.Round(time.Microsecond))
}

func read(file string, stdin io.Reader) ([]string, error) {
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		stdin = f
	}
	b, err := io.ReadAll(io.LimitReader(stdin, maxScript+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxScript {
		return nil, fmt.Errorf("the script is longer than %d bytes", maxScript)
	}
	return split(string(b)), nil
}

// settle waits until every node has been looked at, so that the first reads
// find the replicas.
func settle(ctx context.Context, r *dbrouter.Router) {
	for ctx.Err() == nil {
		known := true
		for _, n := range r.Status() {
			known = known && n.State != dbrouter.StateUnknown
		}
		if known {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// do runs a statement and returns what to print of its result.
func do(ctx context.Context, conn *sql.Conn, statement string) (string, error) {
	if !hasRows(statement) {
		result, err := conn.ExecContext(ctx, statement)
		if err != nil {
			return "", err
		}
		n, err := result.RowsAffected()
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%d rows affected\n", n), nil
	}
	rows, err := conn.QueryContext(ctx, statement)
	if err != nil {
		return "", err
	}
	defer rows.Close()
	var out strings.Builder
	for {
		text, err := table(rows)
		out.WriteString(text)
		if err != nil || !rows.NextResultSet() {
			return out.String(), errors.Join(err, rows.Err())
		}
	}
}

// hasRows says whether a statement is likely to have rows to show.
func hasRows(statement string) bool {
	words := strings.FieldsFunc(strings.ToUpper(statement), func(r rune) bool { return (r < 'A' || r > 'Z') && r != '_' })
	if len(words) == 0 {
		return false
	}
	switch words[0] {
	case "INSERT", "UPDATE", "DELETE", "REPLACE":
		return slices.Contains(words, "RETURNING")
	case "CREATE", "ALTER", "DROP", "TRUNCATE", "RENAME", "SET", "USE", "BEGIN", "START", "COMMIT", "ROLLBACK", "GRANT", "REVOKE", "DO":
		return false
	}
	return true
}

// table prints the first rows.
func table(rows *sql.Rows) (string, error) {
	columns, err := rows.Columns()
	if err != nil {
		return "", err
	}
	if len(columns) == 0 {
		return "done\n", nil
	}
	var out strings.Builder
	for i, c := range columns {
		columns[i] = printable(c)
	}
	out.WriteString(strings.Join(columns, "\t") + "\n")
	values := make([]sql.NullString, len(columns))
	into := make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	n := 0
	for ; rows.Next(); n++ {
		if n >= firstRows {
			continue
		}
		if err := rows.Scan(into...); err != nil {
			return "", err
		}
		for i, v := range values {
			if i > 0 {
				out.WriteByte('\t')
			}
			if v.Valid {
				out.WriteString(printable(v.String))
			} else {
				out.WriteString("NULL")
			}
		}
		out.WriteByte('\n')
	}
	if n > firstRows {
		fmt.Fprintf(&out, "… %d rows in all\n", n)
	}
	return out.String(), rows.Err()
}

// printable is a value that stays in its line and column, and is harmless to a
// terminal: in quotes and with escapes, if it would not be, and in hexadecimal
// digits, as SQL writes them, if it is no text.
func printable(s string) string {
	if len(s) > maxValue {
		return printable(s[:maxValue]) + fmt.Sprintf("… (%d bytes)", len(s))
	}
	if !utf8.ValidString(s) {
		return fmt.Sprintf("x'%x'", s)
	}
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

// headline is the statement in one line of bounded length.
func headline(s string) string {
	const most = 100
	line := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, strings.Join(strings.Fields(s), " "))
	if r := []rune(line); len(r) > most {
		return string(r[:most]) + "…"
	}
	return line
}

func indent(s string) string {
	var out strings.Builder
	for line := range strings.Lines(s) {
		out.WriteString("    " + line)
	}
	return out.String()
}
