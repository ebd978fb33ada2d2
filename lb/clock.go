package lb

import (
	"net/http"
	"sync/atomic"
	"time"
)

// clock writes the Date field, once a second. It is safe for concurrent use; its
// zero value works.
type clock struct {
	last atomic.Pointer[dateLine]
}

type dateLine struct {
	second int64
	line   []byte
}

// date returns the line of the Date field, which must not be changed.
func (c *clock) date(now time.Time) []byte {
	second := now.Unix()
	if d := c.last.Load(); d != nil && d.second == second {
		return d.line
	}
	line := append([]byte("Date: "), now.UTC().Format(http.TimeFormat)...)
	d := &dateLine{second, append(line, "\r\n"...)}
	c.last.Store(d)
	return d.line
}
