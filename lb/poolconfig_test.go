package lb

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestPoolConfigMistakes makes one at a time, so that none hides behind another,
// and what is just right is taken.
func TestPoolConfigMistakes(t *testing.T) {
	long := strings.Repeat("x", maxProbeBody)
	for want, conf := range map[string]PoolConfig{
		"DialTimeout is negative":  {DialTimeout: -1},
		"IdleConns is negative":    {IdleConns: -1},
		"IdleTimeout is negative":  {IdleTimeout: -1},
		"HeaderBytes is negative":  {HeaderBytes: -1},
		"SlowStart is negative":    {SlowStart: -1},
		"MaxInFlight is negative":  {MaxInFlight: -1},
		"QueueTimeout is negative": {QueueTimeout: -1},
		"PanicThreshold is -0.1":   {PanicThreshold: -0.1},
		"PanicThreshold is 1.1":    {PanicThreshold: 1.1},
		"PanicThreshold is NaN":    {PanicThreshold: math.NaN()},

		"HealthCheck.Path is \"a\"":       {Health: &HealthCheck{Path: "a"}},
		"HealthCheck.Path is \"http://h":  {Health: &HealthCheck{Path: "http://h/"}},
		"HealthCheck.Path is \"/a#b\"":    {Health: &HealthCheck{Path: "/a#b"}},
		"HealthCheck.Host is \"a/b c\"":   {Health: &HealthCheck{Host: "a/b c"}},
		"HealthCheck.Probe is -1":         {Health: &HealthCheck{Probe: -1}},
		"HealthCheck.Probe is 3":          {Health: &HealthCheck{Probe: ProbeGRPC + 1}},
		"HealthCheck.Service is \"s\"":    {Health: &HealthCheck{Service: "s"}},
		"HealthCheck.ExpectBody is 65537": {Health: &HealthCheck{ExpectBody: long + "x"}},
		"HealthCheck.Interval is -1ns":    {Health: &HealthCheck{Interval: -1}},
		"IntervalDown is -1ns":            {Health: &HealthCheck{IntervalDown: -1}},
		"HealthCheck.Timeout is -1ns":     {Health: &HealthCheck{Timeout: -1}},
		"HealthCheck.Rise is -1":          {Health: &HealthCheck{Rise: -1}},
		"HealthCheck.Fall is -1":          {Health: &HealthCheck{Fall: -1}},

		"OutlierDetection.MinBackends is 2": {Outlier: &OutlierDetection{MinBackends: 2}},
		"AdaptiveLimit.Max is 6":            {MaxInFlight: 5, AdaptiveLimit: &AdaptiveLimit{Max: 6}},
		"AdaptiveLimit.Min is 6":            {AdaptiveLimit: &AdaptiveLimit{Min: 6, Max: 5}},
		"AdaptiveLimit.Start is 2":          {AdaptiveLimit: &AdaptiveLimit{Min: 3, Start: 2}},
	} {
		p, err := NewPool(conf)
		if err == nil {
			p.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) || strings.Count(err.Error(), "\n") > 0 {
			t.Errorf("the error lacks %q, or has more than that: %v", want, err)
		}
	}
	for _, conf := range []PoolConfig{
		{PanicThreshold: 1},
		{Health: &HealthCheck{ExpectBody: long, Probe: ProbeTCP}},
		{Health: &HealthCheck{Probe: ProbeGRPC, Service: strings.Repeat("s", maxServiceLength)}},
		{MaxInFlight: 5, AdaptiveLimit: &AdaptiveLimit{Min: 5, Max: 5, Start: 5}},
		{Outlier: &OutlierDetection{MinBackends: 3}},
	} {
		p, err := NewPool(conf)
		if err != nil {
			t.Errorf("%+v: %v", conf, err)
			continue
		}
		p.Close()
	}
}

// TestPoolDefaults holds what a zero means against what the fields say of it.
func TestPoolDefaults(t *testing.T) {
	given := PoolConfig{Health: new(HealthCheck), Outlier: new(OutlierDetection), AdaptiveLimit: new(AdaptiveLimit), MaxInFlight: 12, TLS: &tls.Config{ServerName: "before"}}
	p, err := NewPool(given)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	c, h, a := p.conf, p.conf.Health, p.conf.AdaptiveLimit
	got := fmt.Sprintf("%T ", c.Strategy) + fmt.Sprint(c.MaxQueue, c.QueueTimeout, c.DialTimeout, c.IdleConns, c.IdleTimeout, c.HeaderBytes, c.Logger == slog.Default())
	if want := "lb.LeastRequest " + fmt.Sprint(1000, time.Second, 5*time.Second, 256, 55*time.Second, 256<<10, true); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	got = fmt.Sprint(h.Interval, h.IntervalDown, h.Timeout, h.Rise, h.Fall, h.ExpectStatus(199), h.ExpectStatus(200), h.ExpectStatus(399), h.ExpectStatus(400)) + h.Path
	if want := "5s 5s 2s 1 2 false true true false/"; got != want {
		t.Errorf("checks %s, want %s", got, want)
	}
	if got, want := *a, (AdaptiveLimit{Min: 3, Max: 12, Start: 12, Tolerance: 0.25, Interval: 30 * time.Second}); got != want {
		t.Errorf("limit %+v, want %+v", got, want)
	}
	if got, want := (HealthCheck{Interval: time.Minute}).withDefaults().IntervalDown, time.Minute; got != want {
		t.Errorf("IntervalDown is %v, want Interval, %v", got, want)
	}
	// What is the caller's stays so, and what he changes afterwards is his.
	if given.Health.Interval != 0 || given.Outlier.Interval != 0 || given.AdaptiveLimit.Min != 0 {
		t.Error("the caller's own configuration was changed")
	}
	if given.TLS.ServerName = "after"; p.conf.TLS.ServerName != "before" {
		t.Error("the pool uses the caller's own TLS configuration")
	}
}

// TestQueueIsForLimits: without a limit nobody waits, and a negative MaxQueue is
// none.
func TestQueueIsForLimits(t *testing.T) {
	for _, c := range []struct {
		conf PoolConfig
		want int
	}{
		{PoolConfig{MaxQueue: 7}, 0},
		{PoolConfig{MaxQueue: 7, MaxInFlight: 1}, 7},
		{PoolConfig{MaxQueue: 7, AdaptiveLimit: new(AdaptiveLimit)}, 7},
		{PoolConfig{MaxInFlight: 1}, 1000},
	} {
		if got := poolOf(t, c.conf, 1).queue.most; got != c.want {
			t.Errorf("%+v: the queue takes %d, want %d", c.conf, got, c.want)
		}
	}
	p := poolOf(t, PoolConfig{MaxQueue: -1, MaxInFlight: 1, QueueTimeout: time.Hour}, 1)
	p.Pick(PickInfo{})
	if _, err := p.Acquire(t.Context(), PickInfo{}); err != ErrBusy {
		t.Errorf("Acquire: %v, want ErrBusy at once", err)
	}
}

// TestChecksGoTheirOwnWay: each check has a connection of its own, names itself,
// and ends it.
func TestChecksGoTheirOwnWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := make(network)
		var a, b sick
		n.serve(t, addrA, &a)
		n.serve(t, addrB, &b)
		dials := 0
		p := poolOf(t, PoolConfig{
			Backends: []BackendConfig{{ID: "a", URL: "http://" + addrA}},
			Health:   &HealthCheck{Interval: 10 * time.Second},
			Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
				dials++
				return n.dial(ctx, network, addr)
			},
		}, 0)
		defer p.Close()
		time.Sleep(55 * time.Second)
		synctest.Wait()
		if checks := a.checks.Load(); int64(dials) != checks || checks < 5 {
			t.Errorf("%d connections for %d checks", dials, checks)
		}
		if got := a.last.Load().Header; got.Get("User-Agent") != "palisade-health-check" || a.last.Load().Host != addrA {
			t.Errorf("a check has the header %v", got)
		}
	})
}

// TestExpectBodyLooksAtTheBeginning: at the first 64 KiB, and not beyond.
func TestExpectBodyLooksAtTheBeginning(t *testing.T) {
	for _, c := range []struct {
		before int
		want   State
	}{{maxProbeBody - len("good"), Healthy}, {maxProbeBody - len("good") + 1, Unhealthy}} {
		synctest.Test(t, func(t *testing.T) {
			n := make(network)
			n.serve(t, addrA, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				fmt.Fprint(w, strings.Repeat("x", c.before), "good", strings.Repeat("x", maxProbeBody))
			}))
			p := poolOf(t, PoolConfig{Backends: []BackendConfig{{URL: "http://" + addrA}}, Health: &HealthCheck{ExpectBody: "good"}, Dial: n.dial}, 0)
			defer p.Close()
			synctest.Wait()
			if got := p.Status()[0].State; got != c.want {
				t.Errorf("after %d bytes: %v, want %v", c.before, got, c.want)
			}
		})
	}
}
