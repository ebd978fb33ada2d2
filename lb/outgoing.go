package lb

import (
	"net/http"
	"net/url"
	"sync"
)

// outgoing is the room for an outgoing request, which is used again if nobody
// else can have kept a part of it: no hook has seen it, no goroutine sends a
// body, and the transport, which roundTripOther sees to, has none of its own.
type outgoing struct {
	req    http.Request
	url    url.URL
	header http.Header
}

var outgoings = sync.Pool{New: func() any { return &outgoing{header: make(http.Header)} }}

// outgoingFields bounds the header that is kept for the next request.
const outgoingFields = 64

// copyRequest returns a copy of the incoming request that is safe to change, all
// but the values of its fields unless a hook may see them.
func (x *exchange) copyRequest() *http.Request {
	conf, in := &x.proxy.conf, x.in
	bodiless := in.ContentLength == 0 || in.Body == http.NoBody
	if conf.Rewrite != nil || conf.ModifyResponse != nil || !bodiless {
		return in.Clone(in.Context())
	}
	o := outgoings.Get().(*outgoing)
	o.req, o.url = *in, *in.URL
	for name, values := range in.Header {
		o.header[name] = values[:len(values):len(values)]
	}
	o.req.URL, o.req.Header, o.req.Trailer = &o.url, o.header, nil
	x.room = o
	return &o.req
}

// release gives the room back.
func (o *outgoing) release() {
	if len(o.header) > outgoingFields {
		return
	}
	clear(o.header)
	o.req, o.url = http.Request{}, url.URL{}
	outgoings.Put(o)
}
