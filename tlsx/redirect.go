package tlsx

import (
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// RedirectHTTPS answers every request with a permanent redirect to the same
// host, path and query over HTTPS on the port given; 0 or 443 leaves the port
// out. It answers 400 to a Host that is not a name or an address, and keeps the
// method of the request (308, RFC 9110, section 15.4.9). The connection is
// closed: nothing more is to come over it.
func RedirectHTTPS(port int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, err := normalHost(r.Host)
		if err != nil {
			http.Error(w, "malformed Host", http.StatusBadRequest)
			return
		}
		if port != 0 && port != 443 {
			host = net.JoinHostPort(host, strconv.Itoa(port))
		} else if ip := net.ParseIP(host); ip != nil && ip.To4() == nil {
			host = "[" + host + "]"
		}
		// Only path and query are taken from the target: one in absolute form
		// names a host of its own.
		target := url.URL{Scheme: "https", Host: host, Path: r.URL.Path, RawPath: r.URL.RawPath, RawQuery: r.URL.RawQuery}
		w.Header().Set("Connection", "close")
		http.Redirect(w, r, target.String(), http.StatusPermanentRedirect)
	})
}

// HSTS tells browsers to use HTTPS only (RFC 6797). Its zero value promises a
// year for this host alone.
type HSTS struct {
	// MaxAge is how long the promise holds, to the second. Zero means 365 days;
	// negative takes an earlier promise back.
	MaxAge time.Duration
	// IncludeSubdomains extends it to every host below this one.
	IncludeSubdomains bool
	// Preload asks for a place on the lists that browsers ship with. They want
	// IncludeSubdomains and a year, too.
	Preload bool
}

// Handler adds the field to responses over TLS; over plain HTTP it would be
// ignored and must not be sent.
func (h HSTS) Handler(next http.Handler) http.Handler {
	age := h.MaxAge
	if age == 0 {
		age = 365 * 24 * time.Hour
	}
	value := "max-age=" + strconv.Itoa(max(0, int(age/time.Second)))
	if h.IncludeSubdomains {
		value += "; includeSubDomains"
	}
	if h.Preload {
		value += "; preload"
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil {
			w.Header().Set("Strict-Transport-Security", value)
		}
		next.ServeHTTP(w, r)
	})
}
