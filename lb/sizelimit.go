package lb

import (
	"errors"
	"fmt"
	"io"
	"net/http"
)

// errResponseSize is the error for a response that has more than
// ProxyConfig.MaxResponseBody.
var errResponseSize = errors.New("the body is larger than allowed")

// maxRetryBody bounds what may be kept of one request.
const maxRetryBody = 64 << 20

func (c *ProxyConfig) validateBodies() error {
	var errs []error
	if c.RetryBody < 0 || c.RetryBody > maxRetryBody {
		errs = append(errs, fmt.Errorf("lb: ProxyConfig.RetryBody is %d, want 0 for none, or up to %d", c.RetryBody, maxRetryBody))
	}
	for i, status := range c.RetryStatus {
		if status < 400 || status > 599 {
			errs = append(errs, fmt.Errorf("lb: ProxyConfig.RetryStatus[%d] is %d, want 400 to 599", i, status))
		}
	}
	if c.MaxRequestBody < 0 {
		errs = append(errs, fmt.Errorf("lb: ProxyConfig.MaxRequestBody is %d, want 0 for no limit or more", c.MaxRequestBody))
	}
	if c.MaxResponseBody < 0 {
		errs = append(errs, fmt.Errorf("lb: ProxyConfig.MaxResponseBody is %d, want 0 for no limit or more", c.MaxResponseBody))
	}
	return errors.Join(errs...)
}

// boundResponse refuses a response that is known to be too large, and has one
// that turns out to be break off.
func (x *exchange) boundResponse(res *http.Response) error {
	limit := x.proxy.conf.MaxResponseBody
	if limit <= 0 || x.in.Method == http.MethodHead {
		return nil
	}
	if res.ContentLength > limit {
		return fmt.Errorf("%w: %d bytes, want %d at most", errResponseSize, res.ContentLength, limit)
	}
	if res.ContentLength < 0 {
		res.Body = &boundedBody{ReadCloser: res.Body, left: limit}
	}
	return nil
}

// boundedBody is a response's body that may not be longer than it should. It is
// not safe for concurrent use.
type boundedBody struct {
	io.ReadCloser
	left int64
}

// Read implements io.Reader.
func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errResponseSize
	}
	if b.left < int64(len(p)) {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return n - 1, errResponseSize
	}
	return n, err
}
