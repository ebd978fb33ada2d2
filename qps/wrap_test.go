package qps

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/palisade-go/palisade/internal/memnet"
)

func upstream(t testing.TB, m *Meter) UpstreamSnapshot {
	t.Helper()
	s := m.Snapshot()
	if len(s.Upstreams) != 1 {
		t.Fatalf("%d upstreams, want one", len(s.Upstreams))
	}
	return s.Upstreams[0]
}

type roundTripperFunc func(*http.Request) (*http.Response, error)

func (f roundTripperFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestRoundTripper(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeter(t, Config{})
		var status int
		var fail error
		rt := m.RoundTripper("web1", roundTripperFunc(func(r *http.Request) (*http.Response, error) {
			if n := upstream(t, m).InFlight; n != 1 {
				t.Errorf("%d in flight, want 1", n)
			}
			if r.URL.Path == "/panic" {
				panic("in the transport")
			}
			time.Sleep(10 * time.Millisecond)
			if fail != nil {
				return nil, fail
			}
			return &http.Response{StatusCode: status, Body: http.NoBody}, nil
		}))
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		want := [2]uint64{}
		for _, c := range []struct {
			ctx    context.Context
			status int
			err    error
			failed uint64
		}{
			{t.Context(), 200, nil, 0}, {t.Context(), 404, nil, 0}, {t.Context(), 503, nil, 1}, {t.Context(), 0, io.ErrUnexpectedEOF, 1},
			{cancelled, 0, errors.New("closed meanwhile"), 0}, {t.Context(), 0, context.DeadlineExceeded, 1},
		} {
			status, fail = c.status, c.err
			resp, err := rt.RoundTrip(httptest.NewRequestWithContext(c.ctx, "GET", "/", nil))
			if !errors.Is(err, c.err) || (err == nil && resp.StatusCode != c.status) {
				t.Errorf("%+v: %v, %v", c, resp, err)
			}
			want[0] += 1 - c.failed
			want[1] += c.failed
			if u := upstream(t, m); u.OK != want[0] || u.Failed != want[1] || u.InFlight != 0 {
				t.Errorf("%+v: ok %d, failed %d, in flight %d; want %v", c, u.OK, u.Failed, u.InFlight, want)
			}
		}
		func() {
			defer func() { recover() }()
			rt.RoundTrip(httptest.NewRequest("GET", "/panic", nil))
		}()
		if u := upstream(t, m); u.Failed != want[1]+1 || u.InFlight != 0 || u.Duration.Sum() != 60*time.Millisecond {
			t.Errorf("after a panic: %d failed, %d in flight, %v", u.Failed, u.InFlight, u.Duration.Sum())
		}
	})
}

func TestTrack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeter(t, Config{})
		a, b := m.Track("queue"), m.Track("queue")
		time.Sleep(time.Second)
		if u := upstream(t, m); u.InFlight != 2 {
			t.Errorf("%d in flight, want 2", u.InFlight)
		}
		a.Done(nil)
		b.Done(errors.New("full"))
		m.Track("queue").Done(context.Canceled)
		if u := upstream(t, m); u.InFlight != 0 || u.OK != 2 || u.Failed != 1 || u.Duration.Sum() != 2*time.Second {
			t.Errorf("%+v", u)
		}
	})
}

func TestListener(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeter(t, Config{})
		inner := memnet.Listen("10.0.0.1:80")
		srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(w, r.Body)
		})}
		go srv.Serve(m.Listener("front", inner))
		c, err := inner.DialContext(t.Context(), "tcp", "10.0.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		request := "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
		io.WriteString(c, request)
		synctest.Wait()
		answer, err := io.ReadAll(c)
		if err != nil || !strings.HasSuffix(string(answer), "hello") {
			t.Errorf("%q, %v", answer, err)
		}
		idle, err := inner.DialContext(t.Context(), "tcp", "10.0.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		want := ListenerSnapshot{"front", 2, 1, uint64(len(request)), uint64(len(answer))}
		if got := m.Snapshot().Listeners; len(got) != 1 || got[0] != want {
			t.Errorf("%+v, want %+v", got, want)
		}
		idle.Close()
		c.Close()
		srv.Close()
		synctest.Wait()
		if got := m.Snapshot().Listeners[0]; got.Open != 0 {
			t.Errorf("%d connections open after all were closed", got.Open)
		}
	})
}

// TestListenerOverTCP sends a file, which takes the way of sendfile, and copies
// out of a connection, which takes that of splice.
func TestListenerOverTCP(t *testing.T) {
	const size = 1 << 20
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer inner.Close()
	m := newMeter(t, Config{})
	ln := m.Listener("front", inner)
	done := make(chan error, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			done <- err
			return
		}
		defer c.Close()
		f, err := os.Open(path)
		if err != nil {
			done <- err
			return
		}
		defer f.Close()
		if _, ok := c.(interface{ NetConn() net.Conn }).NetConn().(*net.TCPConn); !ok {
			t.Error("NetConn is not the TCP connection")
		}
		io.Copy(c, f)
		if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Error(err)
		}
		_, err = io.Copy(io.Discard, c)
		c.Close()
		done <- err
	}()
	c, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n, err := io.Copy(c, strings.NewReader(strings.Repeat("x", size))); n != size || err != nil {
		t.Fatal(n, err)
	}
	if n, err := io.Copy(io.Discard, c); n != size || err != nil {
		t.Fatal(n, err)
	}
	c.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got, want := m.Snapshot().Listeners[0], (ListenerSnapshot{"front", 1, 0, size, size}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// plainDriver has only what a driver must have; fullDriver below has all.
type plainDriver struct {
	plainConn
	closed bool
}

func (d *plainDriver) Connect(context.Context) (driver.Conn, error) { return d.plainConn, nil }
func (d *plainDriver) Driver() driver.Driver                        { return nil }
func (d *plainDriver) Close() error                                 { d.closed = true; return nil }

type plainConn struct{}

var errQuery = errors.New("query failed")

func (plainConn) Prepare(query string) (driver.Stmt, error) {
	if query == "bad" {
		return nil, errQuery
	}
	return plainStmt{}, nil
}
func (plainConn) Close() error              { return nil }
func (plainConn) Begin() (driver.Tx, error) { return plainTx{}, nil }

type plainTx struct{}

func (plainTx) Commit() error   { return nil }
func (plainTx) Rollback() error { return nil }

type plainStmt struct{}

func (plainStmt) Close() error  { return nil }
func (plainStmt) NumInput() int { return -1 }
func (plainStmt) Exec(args []driver.Value) (driver.Result, error) {
	return driver.RowsAffected(len(args)), nil
}
func (plainStmt) Query([]driver.Value) (driver.Rows, error) { return &noRows{}, nil }

type noRows struct{}

func (*noRows) Columns() []string         { return []string{"a"} }
func (*noRows) Close() error              { return nil }
func (*noRows) Next([]driver.Value) error { return io.EOF }

type fullDriver struct{ plainDriver }

func (d *fullDriver) Connect(context.Context) (driver.Conn, error) { return &fullConn{}, nil }

type fullConn struct{ plainConn }

func (*fullConn) Ping(context.Context) error { return driver.ErrBadConn }
func (*fullConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	switch query {
	case "skip":
		return nil, driver.ErrSkip
	case "bad":
		return nil, errQuery
	case "wait":
		<-ctx.Done()
		return nil, errors.New("driver: interrupted")
	}
	time.Sleep(5 * time.Millisecond)
	return driver.RowsAffected(args[0].Value.(int64)), nil
}
func (*fullConn) QueryContext(context.Context, string, []driver.NamedValue) (driver.Rows, error) {
	return &noRows{}, nil
}
func (*fullConn) BeginTx(_ context.Context, o driver.TxOptions) (driver.Tx, error) {
	return plainTx{}, nil
}
func (*fullConn) CheckNamedValue(v *driver.NamedValue) error {
	if n, ok := v.Value.(int); ok {
		v.Value = int64(n) * 100
		return nil
	}
	return driver.ErrSkip
}

func TestConnector(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMeter(t, Config{})
		want := [2]uint64{}
		check := func(what string, ok, failed uint64) {
			t.Helper()
			want[0] += ok
			want[1] += failed
			if u := upstream(t, m); u.OK != want[0] || u.Failed != want[1] || u.InFlight != 0 {
				t.Errorf("%s: ok %d, failed %d, want %v", what, u.OK, u.Failed, want)
			}
		}
		ctx := t.Context()
		full := sql.OpenDB(m.Connector("db", &fullDriver{}))
		defer full.Close()
		full.SetMaxOpenConns(1)
		res, err := full.ExecContext(ctx, "update", 7)
		if err != nil {
			t.Fatal(err)
		}
		if n, _ := res.RowsAffected(); n != 700 {
			t.Errorf("%d rows, want 700: the driver's own conversion of values was not used", n)
		}
		check("connect and update", 2, 0)
		if d := upstream(t, m).Duration.Sum(); d != 5*time.Millisecond {
			t.Errorf("calls took %v, want 5ms", d)
		}
		if _, err := full.ExecContext(ctx, "bad"); err != errQuery {
			t.Error(err)
		}
		check("bad", 0, 1)
		if _, err := full.ExecContext(ctx, "skip", int64(1)); err != nil {
			t.Error(err)
		}
		check("prepare and execute instead of what the driver skips", 2, 0)
		short, cancel := context.WithCancel(ctx)
		time.AfterFunc(time.Second, cancel)
		if _, err := full.ExecContext(short, "wait"); err == nil {
			t.Error("no error after the caller cancelled")
		}
		check("cancelled", 1, 0)
		tx, err := full.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		if rows, err := tx.QueryContext(ctx, "select"); err != nil || rows.Next() || rows.Close() != nil || tx.Commit() != nil {
			t.Error(err)
		}
		check("begin, select, commit", 3, 0)
		conn, err := full.Conn(ctx)
		if err != nil {
			t.Fatal(err)
		}
		err = conn.Raw(func(c any) error {
			if _, ok := c.(interface{ Unwrap() driver.Conn }).Unwrap().(*fullConn); !ok {
				t.Errorf("Unwrap gives no driver's connection")
			}
			return nil
		})
		if err != nil || conn.Close() != nil {
			t.Error(err)
		}
		if err := full.PingContext(ctx); !errors.Is(err, driver.ErrBadConn) {
			t.Errorf("ping: %v", err)
		}
		if u := upstream(t, m); u.Failed <= want[1] {
			t.Error("a failed ping is not recorded")
		}
	})
}

// TestConnectorOfAPlainDriver: what the driver lacks stays lacking.
func TestConnectorOfAPlainDriver(t *testing.T) {
	m := newMeter(t, Config{})
	inner := &plainDriver{}
	db := sql.OpenDB(m.Connector("db", inner))
	if err := db.Ping(); err != nil {
		t.Error(err)
	}
	if res, err := db.Exec("update", 1, "two"); err != nil {
		t.Error(err)
	} else if n, _ := res.RowsAffected(); n != 2 {
		t.Errorf("%d arguments arrived, want 2", n)
	}
	if _, err := db.Exec("update", sql.Named("a", 1)); err == nil {
		t.Error("a named argument was accepted")
	}
	if _, err := db.BeginTx(t.Context(), &sql.TxOptions{ReadOnly: true}); err == nil {
		t.Error("a read-only transaction was accepted")
	}
	if rows, err := db.Query("select"); err != nil || rows.Close() != nil {
		t.Error(err)
	}
	if tx, err := db.Begin(); err != nil || tx.Rollback() != nil {
		t.Error(err)
	}
	if _, err := db.Query("bad"); err != errQuery {
		t.Error(err)
	}
	if err := db.Close(); err != nil || !inner.closed {
		t.Errorf("closed: %v, %v", inner.closed, err)
	}
	if u := upstream(t, m); u.Failed != 3 || u.OK == 0 {
		t.Errorf("ok %d, failed %d, want 3 failed: named, read-only, bad", u.OK, u.Failed)
	}
}

// answers is a round tripper that answers with a status.
type answers struct {
	status int
	closed *bool
}

func (a answers) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: a.status, Body: http.NoBody, Request: r}, nil
}

func (a answers) CloseIdleConnections() { *a.closed = true }

// TestRoundTripperStatus: 500 is the first status that is a failure.
func TestRoundTripperStatus(t *testing.T) {
	for status, failed := range map[int]uint64{200: 0, 499: 0, 500: 1, 503: 1} {
		m := newMeter(t, Config{})
		closed := false
		client := &http.Client{Transport: m.RoundTripper("a", answers{status, &closed})}
		if _, err := client.Get("http://a.test/"); err != nil {
			t.Fatal(err)
		}
		if u := m.Snapshot().Upstreams[0]; u.Failed != failed || u.Requests() != 1 || u.InFlight != 0 {
			t.Errorf("%d: %+v", status, u)
		}
		if client.CloseIdleConnections(); !closed {
			t.Error("the connections below are not closed")
		}
	}
}
