package firewall

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// requestBody is the body of a request that may not be too large and not too slow.
// Only the time in which a reader waits counts, so that a handler may take its
// own.
type requestBody struct {
	io.ReadCloser
	most    int64 // bytes; 0: any number
	got     int64
	over    atomic.Bool   // more than most came
	minRate int           // bytes per second; 0: any
	grace   time.Duration // in which the rate does not count yet
	control *http.ResponseController

	waited time.Duration
	until  time.Time // the read deadline in force; zero: none
}

// Read implements [io.Reader].
func (b *requestBody) Read(p []byte) (int, error) {
	if b.over.Load() {
		return 0, b.tooLarge()
	}
	if b.most > 0 && int64(len(p)) > b.most-b.got+1 {
		p = p[:b.most-b.got+1] // one more than allowed tells
	}
	if b.minRate == 0 {
		n, err := b.ReadCloser.Read(p)
		return b.count(n, err)
	}
	start := time.Now()
	b.arm(start)
	n, err := b.ReadCloser.Read(p)
	b.waited += time.Since(start)
	if err != nil {
		if timeout, ok := errors.AsType[net.Error](err); !ok || !timeout.Timeout() {
			b.disarm() // the server watches the connection from here on
		}
	}
	return b.count(n, err)
}

func (b *requestBody) count(n int, err error) (int, error) {
	b.got += int64(n)
	if b.most == 0 || b.got <= b.most {
		return n, err
	}
	b.over.Store(true)
	return n - int(b.got-b.most), b.tooLarge()
}

func (b *requestBody) tooLarge() error {
	return fmt.Errorf("%w: %w", errBodyTooLarge, &http.MaxBytesError{Limit: b.most})
}

// arm sets a deadline that the least rate allows, if the one in force is a second
// or more before it.
func (b *requestBody) arm(now time.Time) {
	allowed := b.grace + time.Duration(float64(b.got)/float64(b.minRate)*float64(time.Second)) - b.waited
	if until := now.Add(allowed); until.Sub(b.until) >= time.Second {
		if b.control.SetReadDeadline(until) != nil {
			b.minRate = 0 // a writer without deadlines leaves it to the server
			return
		}
		b.until = until
	}
}

func (b *requestBody) disarm() {
	if !b.until.IsZero() {
		b.until = time.Time{}
		// A connection that refuses has ended, which its user will see.
		_ = b.control.SetReadDeadline(time.Time{})
	}
}

func (b *requestBody) overran() bool { return b.over.Load() }

// watchBody puts what bounds a request body around it. It returns the writer to
// answer with, and what to do in the end, which may be nil.
func (f *Firewall) watchBody(w http.ResponseWriter, r *http.Request, most int64) (http.ResponseWriter, func()) {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return w, nil
	}
	rate := f.minRate
	if s, ok := r.Context().Value(http.ServerContextKey).(*http.Server); !ok || s.ReadTimeout > 0 {
		rate = 0 // the server has a deadline of its own, which ours would undo
	}
	if rate == 0 && most == 0 {
		return w, nil
	}
	b := &requestBody{ReadCloser: r.Body, most: most, minRate: rate, grace: f.bodyGrace, control: http.NewResponseController(w)}
	r.Body = b
	if most == 0 {
		return w, nil
	}
	bounded := &boundedWriter{ResponseWriter: w, r: r, body: b}
	return bounded, bounded.finish
}
