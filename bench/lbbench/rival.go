package lbbench

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/palisade-go/palisade/bench/internal/proc"
	"github.com/palisade-go/palisade/bench/internal/program"
	"github.com/palisade-go/palisade/bench/internal/report"
)

// The programs, as the tables name them.
const (
	directName       = "direct"
	nginxName        = "nginx"
	haproxyName      = "haproxy"
	caddyName        = "caddy"
	httputilName     = "httputil, tuned"
	httputilChain    = "httputil, tuned, chain"
	oursName         = "palisade"
	oursNethttp      = "palisade, nethttp"
	oursChain        = "palisade, chain"
	oursNethttpChain = "palisade, nethttp, chain"
	oursAlone        = "palisade, no metrics"
	oursMetered      = "palisade, qps Middleware"
	oursStream       = "palisade tcpproxy"
)

// rival is a program that is compared.
type rival struct {
	name    string
	path    string
	version string
	absent  error // why there is none
	// args returns its arguments, and writes what configuration it needs.
	args func(r *rival, c configData) ([]string, error)
}

// start runs the rival in a folder of its own.
func (r *rival) start(ctx context.Context, cores unix.CPUSet, c configData) (_ *proc.Process, err error) {
	if r.absent != nil {
		return nil, r.absent
	}
	if c.Dir, err = os.MkdirTemp(c.Dir, "run"); err != nil {
		return nil, err
	}
	if c.Listen, err = proc.FreeAddr(); err != nil {
		return nil, err
	}
	c.Root = os.Getuid() == 0
	args, err := r.args(r, c)
	if err != nil {
		return nil, err
	}
	// A proxy gets one processor, and a Go program knows it.
	return proc.Start(ctx, cores, c.Listen, []string{"GOMAXPROCS=1", "HOME=" + c.Dir}, r.path, args...)
}

// findRivals looks for those that are installed and builds the others.
func findRivals(ctx context.Context, o report.Options, dir string) map[string]*rival {
	proxy := build(ctx, o.Root, dir, "./examples/proxy")
	stream := build(ctx, o.Root, dir, "./examples/tcpproxy")
	front := build(ctx, filepath.Join(o.Root, "bench"), dir, "./cmd/front")
	rivals := []*rival{
		findNginx(), findHAProxy(), findCaddy(ctx, o),
		front.as(httputilName, "-proxy", "httputil"),
		front.as(httputilChain, "-proxy", "httputil", "-chain"),
		proxy.as(oursName, "-front", "palisade"),
		proxy.as(oursNethttp, "-front", "nethttp"),
		front.as(oursChain, "-chain", "-front", "palisade"),
		front.as(oursNethttpChain, "-chain", "-front", "nethttp"),
		front.as(oursAlone, "-front", "palisade"),
		front.as(oursMetered, "-front", "palisade", "-meter"),
		stream.as(oursStream),
	}
	byName := make(map[string]*rival)
	for _, r := range rivals {
		byName[r.name] = r
	}
	return byName
}

func findNginx() *rival {
	r := &rival{name: nginxName, args: func(r *rival, c configData) (_ []string, err error) {
		if c.Stream {
			if c.StreamModule, err = nginxStream(r.path); err != nil {
				return nil, err
			}
		}
		path, err := c.render("nginx.conf")
		return []string{"-p", c.Dir, "-c", path, "-e", filepath.Join(c.Dir, "error.log")}, err
	}}
	return r.of(program.Find("nginx", "-v"))
}

var modulesPath = regexp.MustCompile(`--modules-path=(\S+)`)

// nginxStream returns the file of nginx's stream module, "" if it is built in,
// or an error if there is none.
func nginxStream(path string) (string, error) {
	out, err := exec.Command(path, "-V").CombinedOutput()
	if err != nil {
		return "", err
	}
	return streamModule(string(out), func(file string) bool { _, err := os.Stat(file); return err == nil })
}

func streamModule(options string, exists func(string) bool) (string, error) {
	switch {
	case strings.Contains(options+" ", "--with-stream "):
		return "", nil
	case !strings.Contains(options, "--with-stream=dynamic"):
		return "", errors.New("nginx is built without its stream module")
	}
	dir := modulesPath.FindStringSubmatch(options)
	if dir == nil {
		return "", errors.New("nginx does not say where its modules are")
	}
	if file := filepath.Join(dir[1], "ngx_stream_module.so"); exists(file) {
		return file, nil
	}
	return "", errors.New("nginx's stream module is not installed (Debian: libnginx-mod-stream)")
}

func findHAProxy() *rival {
	r := &rival{name: haproxyName, args: func(_ *rival, c configData) ([]string, error) {
		path, err := c.render("haproxy.cfg")
		return []string{"-db", "-f", path}, err
	}}
	return r.of(program.Find("haproxy", "-v"))
}

func findCaddy(ctx context.Context, o report.Options) *rival {
	r := &rival{name: caddyName, args: func(_ *rival, c configData) ([]string, error) {
		path, err := c.render("caddy.json")
		return []string{"run", "--config", path}, err
	}}
	return r.of(program.Caddy(ctx, o))
}

// build compiles a program of ours.
func build(ctx context.Context, from, to, pkg string) *rival {
	return new(rival).of(program.Build(ctx, from, to, pkg))
}

// of has r run a program.
func (r *rival) of(p program.Program) *rival {
	r.path, r.version, r.absent = p.Path, p.Version, p.Absent
	return r
}

// as returns the rival that a program of ours is with some flags. All of them
// have -listen, -backend, -tls-cert and -tls-key.
func (r *rival) as(name string, flags ...string) *rival {
	c := *r
	c.name, c.version = name, strings.Join(append([]string{r.version}, flags...), " ")
	c.args = func(_ *rival, d configData) ([]string, error) {
		backend := "http://" + d.Backend
		if d.Stream {
			backend = d.Backend
		}
		args := append(slices.Clone(flags), "-listen", d.Listen, "-backend", backend)
		if d.Cert != "" {
			args = append(args, "-tls-cert", d.Cert, "-tls-key", d.Key)
		}
		return args, nil
	}
	return &c
}
