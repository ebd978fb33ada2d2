package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestFlags(t *testing.T) {
	for _, c := range []struct {
		args string
		want string // of the error
	}{
		{"", ""},
		{"-run lb -scenario tls,idle -rounds 3 -seconds 0.5 -out /tmp -seed 9", ""},
		{"-run none", `-run names "none"`},
		{"-run lb -scenario none", `-scenario names "none"`},
		{"-rounds 0", "out of range"},
		{"-rounds 101", "out of range"},
		{"-seconds 0", "out of range"},
		{"-seconds NaN", "out of range"},
		{"-what", "not defined"},
		{"more", `argument "more"`},
	} {
		_, err := parseFlags(strings.Fields(c.args), nil)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: %v, want %q", c.args, err, c.want)
		}
	}
	c, err := parseFlags([]string{"-quick"}, nil)
	if err != nil || c.Rounds != 2 || c.Length != 500*time.Millisecond || c.Seed == 0 || len(c.suites) != len(suites()) {
		t.Errorf("-quick is %+v, %v", c, err)
	}
	if c, err = parseFlags([]string{"-quick", "-rounds", "7"}, nil); err != nil || c.Rounds != 7 {
		t.Errorf("-quick -rounds 7 is %+v, %v", c, err)
	}
}

func TestRun(t *testing.T) {
	var out, errs bytes.Buffer
	if status := run(t.Context(), []string{"-h"}, &out, &errs); status != 0 || !strings.Contains(out.String(), "-scenario") || errs.Len() > 0 {
		t.Errorf("-h: status %d, %q, %q", status, out.String(), errs.String())
	}
	if status := run(t.Context(), []string{"-run", "x", "-scenario", "y"}, &out, &errs); status != 2 || strings.Count(errs.String(), "\n") != 1 {
		t.Errorf("bad flags: status %d, %q", status, errs.String())
	}
	if status := run(t.Context(), []string{"serve-http", "127.0.0.1:none"}, &out, &errs); status != 1 {
		t.Errorf("a backend without a port: status %d", status)
	}
}
