package tlsx

import (
	"net"
	"net/http"
)

// RequireSNIMatch answers 421 Misdirected Request (RFC 9110, section 15.5.20)
// to requests over TLS whose Host is not the name that the handshake was made
// for: the policy of one name must not be used to reach another. A client that
// sent no name may use any Host of the same policy. Requests without TLS pass.
func (t *Terminator) RequireSNIMatch(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil && !t.sniMatches(r) {
			http.Error(w, "misdirected request", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (t *Terminator) sniMatches(r *http.Request) bool {
	host, err := normalHost(r.Host)
	if err != nil {
		return false
	}
	if r.TLS.ServerName != "" {
		name, err := normalName(r.TLS.ServerName)
		return err == nil && name == host
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	name, err := normalAddr(local)
	if err != nil {
		return false
	}
	i := t.table.find(name)
	return i >= 0 && i == t.table.find(host)
}
