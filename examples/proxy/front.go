package main

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/palisade-go/palisade/lb"
)

const (
	headTimeout = 10 * time.Second
	idleTimeout = 2 * time.Minute
)

// front is the server in front of the proxy.
type front interface {
	Serve(net.Listener) error
	ServeTLS(net.Listener, *tls.Config) error
	Shutdown(context.Context) error
	Close() error
}

// fronts are the names that -front takes.
var fronts = map[string]func(c *config, h http.Handler, logger *slog.Logger) front{
	"palisade": func(c *config, h http.Handler, logger *slog.Logger) front {
		return &lb.Server{
			Handler: h, ReadHeaderTimeout: headTimeout, IdleTimeout: idleTimeout,
			UnencryptedHTTP2: c.h2c, ErrorLog: logger, OnRefused: c.proxy.OnDone,
		}
	},
	"nethttp": func(c *config, h http.Handler, logger *slog.Logger) front {
		protocols := new(http.Protocols)
		protocols.SetHTTP1(true)
		protocols.SetHTTP2(true)
		protocols.SetUnencryptedHTTP2(c.h2c)
		return netHTTP{&http.Server{
			Handler: h, Protocols: protocols, DisableGeneralOptionsHandler: true, ReadHeaderTimeout: headTimeout, IdleTimeout: idleTimeout,
			ErrorLog: slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
		}}
	},
}

func (c *config) newServer(h http.Handler, logger *slog.Logger) front {
	return fronts[c.front](c, h, logger)
}

// netHTTP is an http.Server whose ServeTLS takes a configuration.
type netHTTP struct{ *http.Server }

// ServeTLS serves HTTPS.
func (s netHTTP) ServeTLS(l net.Listener, conf *tls.Config) error {
	s.TLSConfig = conf
	return s.Server.ServeTLS(l, "", "")
}
