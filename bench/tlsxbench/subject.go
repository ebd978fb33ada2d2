package tlsxbench

import (
	"context"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/palisade-go/palisade/bench/internal/proc"
	"github.com/palisade-go/palisade/bench/internal/program"
	"github.com/palisade-go/palisade/bench/internal/report"
)

// The programs, as the tables name them.
const (
	bareName     = "crypto/tls, net/http"
	oursName     = "palisade, net/http"
	wholeName    = "palisade, lb.Server"
	nginxName    = "nginx"
	haproxyName  = "haproxy"
	caddyName    = "caddy"
	proxyName    = "palisade proxy"
	httputilName = "httputil, tuned"
)

// encrypted names a proxy that connects to its backend over mutual TLS.
func encrypted(name string) string { return name + ", encrypts" }

// subject is a program that is compared.
type subject struct {
	program.Program
	name    string
	encrypt bool // mutual TLS to the backend
	// args returns its arguments, and writes what configuration it needs.
	args func(s *subject, c configData) ([]string, error)
}

// start runs the program in a folder of its own, on one processor.
func (s *subject) start(ctx context.Context, cores unix.CPUSet, c configData) (_ *proc.Process, err error) {
	if s.Absent != nil {
		return nil, s.Absent
	}
	if c.Dir, err = os.MkdirTemp(c.Dir, "run"); err != nil {
		return nil, err
	}
	if c.Listen, err = proc.FreeAddr(); err != nil {
		return nil, err
	}
	c.Root, c.Name, c.Answer = os.Getuid() == 0, serverName, answer
	args, err := s.args(s, c)
	if err != nil {
		return nil, err
	}
	return proc.Start(ctx, cores, c.Listen, []string{"GOMAXPROCS=1", "HOME=" + c.Dir}, s.Path, args...)
}

// configured is a program that reads a file.
func configured(p program.Program, name, file string, args func(dir, path string) []string) *subject {
	return &subject{Program: p, name: name, args: func(_ *subject, c configData) ([]string, error) {
		path, err := c.render(file)
		return args(c.Dir, path), err
	}}
}

// front is cmd/tlsfront with some flags.
func front(p program.Program, name string, flags ...string) *subject {
	for _, f := range flags {
		p.Version += " " + f
	}
	return &subject{Program: p, name: name, args: func(_ *subject, c configData) ([]string, error) {
		args := append([]string{"-listen", c.Listen, "-name", c.Name, "-cert", c.Cert, "-key", c.Key, "-dir", filepath.Join(c.Dir, "tickets")}, flags...)
		if c.Mutual {
			args = append(args, "-client-ca", c.CA)
		}
		switch {
		case c.Encrypt:
			args = append(args, "-backend", "https://"+c.Backend, "-backend-ca", c.CA)
		case c.Backend != "":
			args = append(args, "-backend", "http://"+c.Backend)
		}
		return args, nil
	}}
}

// findSubjects looks for those that are installed and builds the others.
func findSubjects(ctx context.Context, o report.Options, dir string) map[string]*subject {
	tlsfront := program.Build(ctx, filepath.Join(o.Root, "bench"), dir, "./cmd/tlsfront")
	all := []*subject{
		front(tlsfront, bareName, "-stack", "bare"), front(tlsfront, oursName, "-stack", "palisade"),
		front(tlsfront, wholeName, "-stack", "palisade", "-server", "lb"),
		front(tlsfront, proxyName, "-proxy", "palisade"), front(tlsfront, httputilName, "-proxy", "httputil"),
		configured(program.Find("nginx", "-v"), nginxName, "nginx.conf", func(dir, path string) []string {
			return []string{"-p", dir, "-c", path, "-e", filepath.Join(dir, "error.log")}
		}),
		configured(program.Find("haproxy", "-v"), haproxyName, "haproxy.cfg", func(_, path string) []string { return []string{"-db", "-f", path} }),
		configured(program.Caddy(ctx, o), caddyName, "caddy.json", func(_, path string) []string { return []string{"run", "--config", path} }),
	}
	byName := make(map[string]*subject)
	for _, s := range all {
		byName[s.name] = s
		e := *s
		e.name, e.encrypt = encrypted(s.name), true
		byName[e.name] = &e
	}
	return byName
}
