package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/palisade-go/palisade/firewall"
)

const (
	saveEvery    = time.Minute
	headTimeout  = 10 * time.Second
	idleTimeout  = 2 * time.Minute
	drainTimeout = 5 * time.Second
	retryJitter  = 2 * time.Second
)

// serve serves until the context ends.
func (c *config) serve(ctx context.Context, reload <-chan os.Signal, stdout io.Writer, logger *slog.Logger, fw *firewall.Firewall) error {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", c.listen)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           fw.Handler(c.site(fw)),
		ReadHeaderTimeout: headTimeout,
		IdleTimeout:       idleTimeout,
		Protocols:         new(http.Protocols),
	}
	server.Protocols.SetHTTP1(true)
	server.Protocols.SetUnencryptedHTTP2(c.h2c)
	fmt.Fprintf(stdout, "listening on http://%v\n", ln.Addr())
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(fw.Listener(ln)) }()

	save := time.NewTicker(saveEvery)
	defer save.Stop()
	for {
		select {
		case err := <-failed:
			return errors.Join(err, c.save(fw))
		case <-reload:
			c.reload(logger, fw)
		case <-save.C:
			if err := c.save(fw); err != nil {
				logEach(logger, "bans were not saved", err)
			}
		case <-ctx.Done():
			drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
			defer cancel()
			if server.Shutdown(drain) != nil {
				// Out of time: what is left is cut off.
				_ = server.Close()
			}
			<-failed // that the server was closed
			return c.save(fw)
		}
	}
}

func (c *config) save(fw *firewall.Firewall) error {
	if c.state == "" {
		return nil
	}
	return fw.SaveBans(c.state)
}

// reload reads the policy again; on any mistake the old one stays.
func (c *config) reload(logger *slog.Logger, fw *firewall.Firewall) {
	policy, err := firewall.ReadPolicy(c.policy)
	if err == nil {
		err = fw.Update(policy)
	}
	if err != nil {
		logEach(logger, "the old policy stays", err)
	}
}

// site is what the firewall protects.
func (c *config) site(fw *firewall.Firewall) http.Handler {
	switch {
	case c.backend != nil:
		return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(c.backend)
			r.Out.Host = r.In.Host
			r.SetXForwarded()
			if client, ok := fw.ClientIP(r.In); ok {
				r.Out.Header.Set("X-Forwarded-For", client.String())
			}
		}}
	case c.dir != "":
		return http.FileServer(plainDir{http.Dir(c.dir)})
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		client, _ := fw.ClientIP(r)
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintf(w, "Accepted. You are %v.\n", client)
	})
}

// plainDir is a folder without what is neither a file nor a folder: to open a pipe
// would wait until somebody writes into it.
type plainDir struct{ http.Dir }

// Open implements http.FileSystem.
func (d plainDir) Open(name string) (http.File, error) {
	info, err := os.Stat(filepath.Join(string(d.Dir), filepath.FromSlash(path.Clean("/"+name))))
	if err == nil && !info.IsDir() && !info.Mode().IsRegular() {
		return nil, fs.ErrNotExist
	}
	return d.Dir.Open(name)
}
