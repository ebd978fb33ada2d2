package http1

import "net/http"

// newRequest is ReadRequest into a new one.
func (r *Reader) newRequest(limit int) (*http.Request, error) {
	req, body := new(http.Request), new(Body)
	if err := r.ReadRequest(req, body, limit); err != nil {
		return nil, err
	}
	return req, nil
}

// newResponse is ReadHead for tests that want what net/http has.
func (r *Reader) newResponse(method string, limit int) (*http.Response, error) {
	res, err := r.ReadHead(method, limit)
	if err != nil {
		return nil, err
	}
	return res.HTTP(), nil
}
