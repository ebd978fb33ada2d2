package lb

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/palisade-go/palisade/lb/internal/http1"
)

// appendStatusLine follows net/http for a status that has no name.
func appendStatusLine(dst []byte, minor, status int) []byte {
	if minor == 0 {
		dst = append(dst, "HTTP/1.0 "...)
	} else {
		dst = append(dst, "HTTP/1.1 "...)
	}
	dst = append(strconv.AppendInt(dst, int64(status), 10), ' ')
	if text := http.StatusText(status); text != "" {
		dst = append(dst, text...)
	} else {
		dst = strconv.AppendInt(append(dst, "status code "...), int64(status), 10)
	}
	return append(dst, "\r\n"...)
}

// room takes a buffer for out.
func (w *reply) room() {
	if w.outRoom == nil {
		w.outRoom = replyRooms.Get().(*[replyRoom]byte)
		w.out = w.outRoom[:0]
	}
}

// writeInterim sends an interim response with the fields that are set now.
func (w *reply) writeInterim(status int) {
	w.room()
	w.out = appendStatusLine(w.out, w.req.ProtoMinor, status)
	for name, values := range w.header {
		switch name {
		case "Content-Length", "Transfer-Encoding":
		default:
			w.out = http1.AppendSafeField(w.out, name, values)
		}
	}
	w.out = append(w.out, "\r\n"...)
	w.push()
}

// beginHead writes the fields as they are now: what the handler changes later is
// not for this head. The framing follows when it is known.
func (w *reply) beginHead() {
	w.room()
	w.out = appendStatusLine(w.out, w.req.ProtoMinor, w.status)
	w.length = -1
	notes := &w.head
	for name, values := range w.header {
		if len(values) == 0 {
			if name == "Content-Type" {
				notes.hasType = true // nil asks for none
			}
			if name == "Date" {
				notes.hasDate = true
			}
			if name == "Content-Length" {
				notes.noLength = true
			}
			continue
		}
		switch name {
		case "Content-Length":
			n, err := strconv.ParseInt(values[0], 10, 64)
			if err != nil || n < 0 {
				s := w.conn.server
				s.badLength.Do(func() { s.log().Warn("lb: a handler sets an invalid Content-Length", "value", values[0]) })
				delete(w.header, name)
				continue
			}
			w.length = n
			continue
		case "Transfer-Encoding":
			notes.coding = values[0]
			continue
		case "Connection":
			notes.connection = values
			continue
		case "Trailer":
			notes.hasTrailers = true
			w.announce(values)
		case "Content-Type":
			notes.hasType = true
		case "Content-Encoding":
			notes.hasEncoding = values[0] != ""
		case "Date":
			notes.hasDate = true
		default:
			if strings.HasPrefix(name, http.TrailerPrefix) {
				notes.hasTrailers = true
				continue
			}
		}
		if name == "Content-Type" && w.status == http.StatusNotModified {
			continue
		}
		w.out = http1.AppendSafeField(w.out, name, values)
	}
}

// isUntouched says that the handler has not even set a field.
func (w *reply) isUntouched() bool { return w.status == 0 && !w.hijacked && len(w.header) == 0 }

// writeFields is WriteHeader for a response whose fields are in list, and not in
// the header; the reply is untouched. They are well formed, and none is one of framing but
// Content-Length.
func (w *reply) writeFields(status int, list []http1.Field) {
	w.stopContinue()
	w.status, w.length = status, -1
	w.room()
	w.out = appendStatusLine(w.out, w.req.ProtoMinor, status)
	w.head.hasType = true
	for _, f := range list {
		switch f.Name {
		case "Content-Length":
			w.length, _ = strconv.ParseInt(f.Value, 10, 64) // the client has looked at it
			continue
		case "Content-Type":
			if status == http.StatusNotModified {
				continue
			}
		case "Content-Encoding":
			w.head.hasEncoding = true
		case "Date":
			w.head.hasDate = true
		}
		w.out = append(append(w.out, f.Name...), ": "...)
		w.out = append(append(w.out, f.Value...), "\r\n"...)
	}
}

// announce notes the names of a Trailer field.
func (w *reply) announce(lists []string) {
	for _, list := range lists {
		for name := range strings.SplitSeq(list, ",") {
			if name = http.CanonicalHeaderKey(strings.Trim(name, " \t")); name != "" && httpguts.ValidTrailerHeader(name) {
				w.trailer = append(w.trailer, name)
			}
		}
	}
}

// endHead decides how the response is framed, and writes the rest of its head.
// first is the first part of the body.
func (w *reply) endHead(first []byte) {
	w.headDone = true
	notes, isHead := &w.head, w.req.Method == http.MethodHead
	allowed := bodyAllowed(w.status)
	if w.done && !notes.hasTrailers && !notes.noLength && notes.coding == "" && allowed && w.length < 0 && (!isHead || len(first) > 0) {
		w.length = int64(len(first))
	}
	if w.length >= 0 && notes.coding != "" && notes.coding != "identity" {
		w.length = -1
	}
	w.decideClose()
	if allowed && !notes.hasType && !notes.hasEncoding && notes.coding == "" && len(first) > 0 {
		w.out = append(append(append(w.out, "Content-Type: "...), http.DetectContentType(first)...), "\r\n"...)
	}
	if !notes.hasDate {
		w.out = append(w.out, w.conn.server.clock.date(time.Now())...)
	}
	switch {
	case !allowed:
	case w.length >= 0:
		w.out = strconv.AppendInt(append(w.out, "Content-Length: "...), w.length, 10)
		w.out = append(w.out, "\r\n"...)
	case isHead:
	case w.req.ProtoMinor == 0:
		w.close = true
	case notes.coding == "identity":
		w.close = true
	default:
		w.chunked = true
		w.out = append(w.out, "Transfer-Encoding: chunked\r\n"...)
	}
	w.appendConnection()
	w.out = append(w.out, "\r\n"...)
}

// decideClose finds out whether the connection can be used again.
func (w *reply) decideClose() {
	if httpguts.HeaderValuesContainsToken(w.head.connection, "close") || w.conn.server.ending.Load() || w.status == http.StatusSwitchingProtocols {
		w.close = true
	}
	if !w.hasBody || w.close || w.fullDuplex {
		return
	}
	// A client may not read before it has sent all; and after a body that cannot
	// be read nothing can. One that was asked to wait for a 100 sends nothing.
	if !w.body.over() && (w.expects || !w.body.drain()) {
		w.close = true
	}
}

// appendConnection writes what the handler has set, unless the connection closes
// for another reason.
func (w *reply) appendConnection() {
	values := w.head.connection
	switch {
	case w.status == http.StatusSwitchingProtocols, httpguts.HeaderValuesContainsToken(values, "close"):
	case w.close && w.req.ProtoMinor == 0:
		return
	case w.close:
		w.out = append(w.out, "Connection: close\r\n"...)
		return
	case w.keepAlive10 && len(values) == 0:
		w.out = append(w.out, "Connection: keep-alive\r\n"...)
		return
	}
	w.out = http1.AppendSafeField(w.out, "Connection", values)
}
