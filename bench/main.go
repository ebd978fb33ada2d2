package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/palisade-go/palisade/bench/dbbench"
	"github.com/palisade-go/palisade/bench/firewallbench"
	"github.com/palisade-go/palisade/bench/internal/report"
	"github.com/palisade-go/palisade/bench/lbbench"
	"github.com/palisade-go/palisade/bench/qpsbench"
	"github.com/palisade-go/palisade/bench/tlsxbench"
)

// suites are what -run can name. A further one is a package beside lbbench and a
// line here.
func suites() []report.Suite {
	return []report.Suite{lbbench.Suite(), firewallbench.Suite(), qpsbench.Suite(), tlsxbench.Suite(), dbbench.Suite()}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// config is what the flags say.
type config struct {
	suites []report.Suite
	out    string
	report.Options
}

func parseFlags(args []string, help io.Writer) (*config, error) {
	var c config
	var run, scenarios string
	var seconds float64
	var names []string
	for _, s := range suites() {
		names = append(names, s.Name)
	}
	var usage bytes.Buffer
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(&usage)
	f.StringVar(&run, "run", strings.Join(names, ","), "the `names` of the suites, with commas between")
	f.StringVar(&scenarios, "scenario", "", "the `names` of the scenarios, with commas between; all if empty")
	f.IntVar(&c.Rounds, "rounds", 5, "how `often` everything is measured")
	f.Float64Var(&seconds, "seconds", 2, "how `long` one measurement takes")
	f.StringVar(&c.out, "out", ".", "the `folder` for report.json and report.md")
	f.Uint64Var(&c.Seed, "seed", 0, "the `number` that decides the order; random if 0")
	f.BoolVar(&c.Quick, "quick", false, "a rough look: 2 rounds of 0.5 s, unless they are given")
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		io.Copy(help, &usage)
		return nil, err
	case err != nil:
		return nil, err
	case f.NArg() > 0:
		return nil, fmt.Errorf("argument %q, want flags only", f.Arg(0))
	}
	given := make(map[string]bool)
	f.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if c.Quick && !given["rounds"] {
		c.Rounds = 2
	}
	if c.Quick && !given["seconds"] {
		seconds = 0.5
	}
	if c.Rounds < 1 || c.Rounds > 100 || !(seconds >= 0.05 && seconds <= 60) {
		return nil, errors.New("-rounds or -seconds is out of range, want 1 to 100 and 0.05 to 60")
	}
	c.Length = time.Duration(seconds * float64(time.Second))
	for c.Seed == 0 {
		c.Seed = rand.Uint64N(1 << 32)
	}
	return &c, errors.Join(c.choose(run), c.chooseScenarios(scenarios))
}

// choose sets the suites.
func (c *config) choose(run string) error {
	all := suites()
	for name := range strings.SplitSeq(run, ",") {
		i := slices.IndexFunc(all, func(s report.Suite) bool { return s.Name == name })
		if i < 0 {
			return fmt.Errorf("-run names %q, which is no suite", name)
		}
		c.suites = append(c.suites, all[i])
	}
	return nil
}

func (c *config) chooseScenarios(names string) error {
	if names == "" {
		return nil
	}
	for name := range strings.SplitSeq(names, ",") {
		if !slices.ContainsFunc(c.suites, func(s report.Suite) bool { return slices.Contains(s.Scenarios, name) }) {
			return fmt.Errorf("-scenario names %q, which is in no suite that runs", name)
		}
		c.Scenarios = append(c.Scenarios, name)
	}
	return nil
}

// run is main with its surroundings as arguments; it returns the exit status.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 2 && (args[0] == lbbench.ServeHTTP || args[0] == lbbench.ServeStream) {
		fmt.Fprintln(stderr, lbbench.Serve(args[0], args[1]))
		return 1
	}
	c, err := parseFlags(args, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "bench: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
		return 2
	}
	c.Log = func(format string, args ...any) { fmt.Fprintf(stderr, format+"\n", args...) }
	if err := c.measure(ctx, args, stdout); err != nil {
		fmt.Fprintf(stderr, "bench: %v\n", err)
		return 1
	}
	return 0
}

// measure runs the suites and writes the report after each.
func (c *config) measure(ctx context.Context, args []string, stdout io.Writer) error {
	mod, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return fmt.Errorf("go env GOMOD: %w", err)
	}
	c.Root = filepath.Dir(filepath.Dir(strings.TrimSpace(string(mod))))
	if _, err := os.Stat(filepath.Join(c.Root, "lb")); err != nil {
		return errors.New("run it as go run -C bench . in a clone of Palisade")
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	c.Cache = filepath.Join(cache, "palisade", "bin")
	c.Log("seed %d", c.Seed)
	for _, suite := range c.suites {
		r, err := report.Load(c.out)
		if err != nil {
			return err
		}
		s := report.Section{
			Suite: suite.Name, Date: time.Now().UTC().Format(time.RFC3339), Seed: c.Seed,
			Command: strings.Join(append([]string{"go run -C bench ."}, args...), " "), Machine: report.ThisMachine(c.Root),
		}
		err = suite.Run(ctx, c.Options, &s)
		s.Verdicts = report.Judge(suite.Targets, s.Tables)
		r.Put(s)
		if err := errors.Join(err, r.Save(c.out)); err != nil {
			return err
		}
		one := report.Report{Sections: []report.Section{s}}
		stdout.Write(one.Markdown())
	}
	return nil
}
