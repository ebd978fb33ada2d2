package qps

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"time"
)

const (
	defaultPushInterval = 10 * time.Second
	leastPushInterval   = time.Second
	pushTimeout         = 5 * time.Second
	firstPushPause      = time.Second
	mostRedirects       = 10 // as net/http
)

// Push sends the metrics to a server that scrapes nothing: Prometheus text,
// compressed with gzip, by POST, as VictoriaMetrics takes it at
// /api/v1/import/prometheus, and the Pushgateway at /metrics/job/NAME. Counters
// are sums since the beginning, so a push that failed is made up for by the next.
type Push struct {
	// URL is where to send to, http or https. VictoriaMetrics adds labels that are
	// in its query, as in ?extra_label=zone=a. It may have a password, which is
	// not logged. An empty one is an error.
	URL string
	// Interval is the time between pushes. Zero means 10 s, 1 s at least. After
	// one that failed the next comes sooner: in 1 s, 2 s, 4 s and so on.
	Interval time.Duration
	// Header is sent with each request, such as Authorization. It is cloned. Nil
	// adds nothing.
	Header http.Header
	// Client sends the requests; each is given up after 5 s. It is copied, and
	// follows only redirects that keep the method, 307 and 308: others would have
	// it GET something, and nothing be sent. Nil means a client of the Meter's own,
	// with a transport like http.DefaultTransport.
	Client *http.Client
}

func (p *Push) check() error {
	var errs []error
	if u, err := url.Parse(p.URL); err != nil {
		errs = append(errs, errors.New("qps: Push.URL cannot be parsed, want an http or https URL"))
	} else if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		errs = append(errs, fmt.Errorf("qps: Push.URL is %q, want an http or https URL", u.Redacted()))
	}
	if p.Interval != 0 && p.Interval < leastPushInterval {
		errs = append(errs, fmt.Errorf("qps: Push.Interval is %v, want 0 or %v at least", p.Interval, leastPushInterval))
	}
	return errors.Join(errs...)
}

// pusher is what a Meter makes of a Push.
type pusher struct {
	conf   Push
	shown  string // the URL without its password
	client *http.Client
	own    *http.Transport // nil: the client is the caller's
	write  func(io.Writer)
	report func(err error) // of each push
}

func newPusher(conf Push, write func(io.Writer), report func(error)) *pusher {
	conf.Header = conf.Header.Clone()
	if conf.Interval == 0 {
		conf.Interval = defaultPushInterval
	}
	p := &pusher{conf: conf, client: conf.Client, write: write, report: report}
	if u, err := url.Parse(conf.URL); err == nil {
		p.shown = u.Redacted()
	}
	if p.client == nil {
		p.own = &http.Transport{Proxy: http.ProxyFromEnvironment, ForceAttemptHTTP2: true, IdleConnTimeout: time.Minute}
		p.client = &http.Client{Transport: p.own}
	}
	client := *p.client
	client.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		switch {
		case r.Method != http.MethodPost:
			return http.ErrUseLastResponse
		case conf.Client != nil && conf.Client.CheckRedirect != nil:
			return conf.Client.CheckRedirect(r, via)
		case len(via) >= mostRedirects:
			return fmt.Errorf("qps: %d redirects", len(via))
		}
		return nil
	}
	p.client = &client
	return p
}

// run pushes until ctx ends, and then once more, for what came last.
func (p *pusher) run(ctx context.Context) {
	pause := p.conf.Interval
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			p.report(p.push(context.WithoutCancel(ctx)))
			if p.own != nil {
				p.own.CloseIdleConnections()
			}
			return
		case <-timer.C:
		}
		err := p.push(ctx)
		switch {
		case ctx.Err() != nil:
			continue
		case err == nil:
			pause = p.conf.Interval
		case pause >= p.conf.Interval:
			pause = min(firstPushPause, p.conf.Interval)
		default:
			pause = min(2*pause, p.conf.Interval)
		}
		p.report(err)
		timer.Reset(pause)
	}
}

func (p *pusher) push(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	var body bytes.Buffer
	zip := gzip.NewWriter(&body)
	p.write(zip)
	if err := zip.Close(); err != nil {
		return fmt.Errorf("qps: push: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, p.conf.URL, &body)
	if err != nil {
		return fmt.Errorf("qps: push: %w", err)
	}
	maps.Copy(r.Header, p.conf.Header)
	r.Header.Set("Content-Type", textType)
	r.Header.Set("Content-Encoding", "gzip")
	resp, err := p.client.Do(r)
	if err != nil {
		// A url.Error has the URL, and with it the password.
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return fmt.Errorf("qps: push to %s: %w", p.shown, err)
	}
	defer resp.Body.Close()
	io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("qps: push to %s: %s", p.shown, resp.Status)
	}
	return nil
}
