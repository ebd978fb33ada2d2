package dbrouter

import (
	"context"
	"crypto/tls"
	"database/sql"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/palisade-go/palisade/dbrouter/mysqltest"
)

func (p *pair) perSession() Config {
	c := p.config()
	c.Consistency = PerSession
	c.CheckInterval = time.Hour
	c.TokenKeys = [][]byte{[]byte("0123456789abcdef")}
	return c
}

// asked counts the questions for the position of the primary.
func (p *pair) asked() (n int) {
	for _, q := range p.primary.Queries() {
		if q == mariaDB.position() {
			n++
		}
	}
	return n
}

// TestSessionSeesItsWrites, with no question to the primary: the server reports
// the position of each write, and the replica is waited for.
func TestSessionSeesItsWrites(t *testing.T) {
	p := newPair(t)
	r, rec := open(t, p.perSession())
	upReplicas(t, r, 1)
	for i := range 20 {
		p.replica.SetLag(time.Duration(i%3) * 10 * time.Millisecond)
		ctx, s := r.NewSession(t.Context())
		switch i % 4 {
		case 0:
			if _, err := r.DB().ExecContext(ctx, update); err != nil {
				t.Fatal(err)
			}
		case 1:
			if _, err := r.DB().ExecContext(ctx, update+" WHERE n <> ?", -1); err != nil {
				t.Fatal(err)
			}
		case 2:
			rows, err := r.DB().QueryContext(ctx, update)
			if err != nil {
				t.Fatal(err)
			}
			rows.Close()
		case 3:
			tx, err := r.DB().BeginTx(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Exec(update); err != nil {
				t.Fatal(err)
			}
			if s.at.text != "" {
				t.Errorf("%d: a position before COMMIT: %s", i, s.at.text)
			}
			if err := tx.Commit(); err != nil {
				t.Fatal(err)
			}
		}
		if s.at.text == "" || s.unsure {
			t.Fatalf("%d: the position of the write is not known: %+v", i, s.at)
		}
		var n int
		if err := r.DB().QueryRowContext(ctx, query).Scan(&n); err != nil || n != i+1 {
			t.Errorf("%d: read %d, %v", i, n, err)
		}
		if last := rec.last(t); last.Role != Replica {
			t.Errorf("%d: %+v", i, last)
		}
	}
	if n := p.asked(); n > 4 { // by looks at the replica
		t.Errorf("the primary was asked for its position %d times", n)
	}
}

// TestSharedSession: without a Session of its own a read sees what was written
// through the router, and one with a Session need not wait for others' writes.
func TestSharedSession(t *testing.T) {
	p := newPair(t)
	c := p.perSession()
	c.WaitLimit = 20 * time.Millisecond
	r, rec := open(t, c)
	upReplicas(t, r, 1)
	p.replica.SetLag(time.Hour)
	mustExec(t, r.DB(), update)
	ctx, _ := r.NewSession(t.Context())
	var n int
	if err := r.DB().QueryRowContext(ctx, query).Scan(&n); err != nil || n != 0 || rec.last(t).Role != Replica {
		t.Errorf("another's write was waited for: %d, %v, %+v", n, err, rec.last(t))
	}
	if n := one[int](t, r.DB(), query); n != 1 || rec.last(t).Reason != tooFarBehind {
		t.Errorf("%d, %+v", n, rec.last(t))
	}
}

// TestSessionWithoutReports: a server that does not report is asked after the
// write, and if it does not answer, before the next read.
func TestSessionWithoutReports(t *testing.T) {
	p := newPair(t)
	c := p.perSession()
	r, rec := open(t, c)
	upReplicas(t, r, 1)
	p.replica.SetLag(10 * time.Millisecond)
	conn, err := r.DB().Conn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, s := r.NewSession(t.Context())
	// Pins the session, and ends the reports.
	if _, err := conn.ExecContext(ctx, "SET SESSION SESSION_TRACK_system_variables = ''"); err != nil {
		t.Fatal(err)
	}
	before := p.asked()
	mustExecIn(t, ctx, conn, update)
	if p.asked() == before || s.unsure || s.at.text == "" {
		t.Errorf("asked %d times, %+v", p.asked()-before, s.at)
	}
	if n := oneIn[int](t, ctx, r.DB(), query); n != 1 || rec.last(t).Role != Replica {
		t.Errorf("%d, %+v", n, rec.last(t))
	}
	remove := p.primary.Inject(mysqltest.Fault{Match: match(mariaDB.position()), Err: &mysqltest.Error{Code: 1105, Message: "no"}})
	mustExecIn(t, ctx, conn, update)
	if !s.unsure {
		t.Error("sure of a position that nobody told")
	}
	remove()
	if n := oneIn[int](t, ctx, r.DB(), query); n != 2 || rec.last(t).Role != Replica || s.unsure {
		t.Errorf("%d, %+v", n, rec.last(t))
	}
}

func mustExecIn(t *testing.T, ctx context.Context, e interface {
	ExecContext(context.Context, string, ...any) (sql.Result, error)
}, query string) {
	t.Helper()
	if _, err := e.ExecContext(ctx, query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func oneIn[T any](t *testing.T, ctx context.Context, q interface {
	QueryRowContext(context.Context, string, ...any) *sql.Row
}, query string) T {
	t.Helper()
	var v T
	if err := q.QueryRowContext(ctx, query).Scan(&v); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return v
}

// TestWriteLost: the primary has not what the session was told of. It is said,
// once.
func TestWriteLost(t *testing.T) {
	p := newPair(t)
	c := p.perSession()
	c.CheckInterval, c.WaitLimit = 10*time.Millisecond, 10*time.Millisecond
	r, _ := open(t, c)
	upReplicas(t, r, 1)
	ctx, s := r.NewSession(t.Context())
	mustExecIn(t, ctx, r.DB(), update)
	s.at.text += "000"
	var n int
	if err := r.DB().QueryRowContext(ctx, query).Scan(&n); !errors.Is(err, ErrWriteLost) {
		t.Errorf("%d, %v", n, err)
	}
	if n := oneIn[int](t, ctx, r.DB(), query); n != 1 {
		t.Errorf("after the report: %d", n)
	}
}

// TestOldPrimary: a session's read that does not find its write on a replica
// must not be done by a node that was the primary.
func TestOldPrimary(t *testing.T) {
	p := newPair(t)
	c := p.perSession()
	c.WaitLimit = 10 * time.Millisecond
	a, _ := open(t, c)
	upReplicas(t, a, 1)
	p.primary.SetReadOnly(true)
	p.replica.SetReadOnly(false)
	c.Nodes = []Node{{Name: "db2", Config: p.replica.Config()}}
	b, _ := open(t, c)
	ctx, s := b.NewSession(t.Context())
	mustExecIn(t, ctx, b.DB(), update)
	// Router a has not looked since, but the token tells.
	ctx, _, err := a.WithToken(t.Context(), s.Token())
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the read follows", func() bool {
		var n int
		err := a.DB().QueryRowContext(ctx, query).Scan(&n)
		if err == nil && n != 1 {
			t.Fatalf("a stale read: %d", n)
		}
		return err == nil
	})
}

func TestToken(t *testing.T) {
	p := newPair(t)
	r, _ := newRouter(t, p.perSession())
	c := p.perSession()
	c.TokenKeys = [][]byte{[]byte("another key 0123"), []byte("0123456789abcdef")}
	second, _ := newRouter(t, c)
	c.TokenKeys = nil
	stranger, _ := newRouter(t, c)
	for _, at := range []position{{}, {mariaDB, "0-1-7,3-2-18446744073709551615"}, {mySQL, uuid + ":1-7," + uuid + ":tag:1-9"}} {
		_, s := r.NewSession(t.Context())
		s.wrote(at, true)
		token := s.Token()
		if len(token) > 160 || strings.Trim(token, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			t.Errorf("token %q", token)
		}
		for _, r := range []*Router{r, second} {
			_, got, err := r.WithToken(t.Context(), token)
			if err != nil || got.at != at || got.unsure {
				t.Errorf("%+v became %+v, %v", at, got.at, err)
			}
		}
		for i := range len(token) {
			b := []byte(token)
			b[i] ^= 1
			if _, got, err := r.WithToken(t.Context(), string(b)); !errors.Is(err, ErrToken) || !got.unsure {
				t.Errorf("byte %d of %q changed: %+v, %v", i, token, got.at, err)
			}
		}
		if _, got, err := stranger.WithToken(t.Context(), token); !errors.Is(err, ErrToken) || !got.unsure {
			t.Errorf("a stranger takes %q: %v", token, err)
		}
	}
	// The first key signs: who does not know it does not take the token.
	_, s := second.NewSession(t.Context())
	s.wrote(position{mariaDB, "0-1-7"}, true)
	token := s.Token()
	if _, got, err := second.WithToken(t.Context(), token); err != nil || got.unsure {
		t.Errorf("its own token is refused: %v", err)
	}
	if _, _, err := r.WithToken(t.Context(), token); !errors.Is(err, ErrToken) {
		t.Errorf("taken without knowing the key that signs: %v", err)
	}
	// A token has one spelling: bits that count for nothing are 0.
	for c := range strings.SplitSeq("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", "") {
		spelled := token[:len(token)-1] + c
		if _, _, err := second.WithToken(t.Context(), spelled); (err == nil) != (spelled == token) {
			t.Errorf("%q, spelled for %q: %v", spelled, token, err)
		}
	}
	// What is signed, and yet no token of this version, or too long for one.
	for _, content := range []string{"z" + uuid + ":1-7", "m", "y", "m0-1-7;", "y0-1-7", "m" + parts(mariaDB, 50)} {
		signed := base64.RawURLEncoding.EncodeToString(append([]byte(content), sign(second.keys[0], []byte(content))...))
		if _, got, err := second.WithToken(t.Context(), signed); !errors.Is(err, ErrToken) || !got.unsure || got.at.text != "" {
			t.Errorf("%.20q: %+v, %v", content, got.at, err)
		}
	}
	_, s = r.NewSession(t.Context())
	s.wrote(position{mariaDB, parts(mariaDB, 50)}, true)
	if token := s.Token(); len(token) > 160 {
		t.Errorf("a token of %d bytes", len(token))
	} else if _, got, err := r.WithToken(t.Context(), token); err != nil || !got.unsure {
		t.Errorf("a position too long for a token: %+v, %v", got.at, err)
	}
	_, s = r.NewSession(t.Context())
	s.wrote(position{}, false)
	if _, got, err := r.WithToken(t.Context(), s.Token()); err != nil || !got.unsure {
		t.Errorf("not unsure any more: %v", err)
	}
	if _, err := New(Config{Nodes: c.Nodes, TokenKeys: [][]byte{[]byte("short")}}); err == nil || !strings.Contains(err.Error(), "TokenKeys[0] has 5 bytes") {
		t.Errorf("%v", err)
	}
	if _, err := New(Config{Nodes: c.Nodes, TokenKeys: [][]byte{make([]byte, minKey), make([]byte, minKey-1)}}); err == nil || !strings.Contains(err.Error(), "TokenKeys[1] has 15 bytes") {
		t.Errorf("%v", err)
	}
	if _, err := New(Config{Nodes: c.Nodes, TokenKeys: make([][]byte, maxKeys+1)}); err == nil || !strings.Contains(err.Error(), "TokenKeys has 17 keys") {
		t.Errorf("%v", err)
	}
	mine := []byte("0123456789abcdef")
	c.TokenKeys = [][]byte{mine}
	third, _ := newRouter(t, c)
	clear(mine)
	_, s = third.NewSession(t.Context())
	if _, _, err := r.WithToken(t.Context(), s.Token()); err != nil {
		t.Errorf("a key that its owner has cleared since: %v", err)
	}
}

// TestSettle: the primary's answer is one about the writes before the question.
func TestSettle(t *testing.T) {
	s := new(Session)
	s.wrote(position{}, false)
	s.strict = true
	_, sure, changes := s.read()
	if sure {
		t.Error("sure of a write that is not known")
	}
	s.wrote(position{mariaDB, "0-1-9"}, true)
	s.settle(position{mariaDB, "0-1-8"}, changes)
	if at, sure, _ := s.read(); at.text != "0-1-9" || sure {
		t.Errorf("an answer took the place of a later write: %+v, %v", at, sure)
	}
	_, _, changes = s.read()
	s.settle(position{mariaDB, "0-1-10"}, changes)
	if at, sure, _ := s.read(); at.text != "0-1-10" || !sure {
		t.Errorf("not settled: %+v, %v", at, sure)
	}
	s.wrote(position{mySQL, uuid + ":1-5"}, true)
	if at, sure := s.known(); at.dialect != mariaDB || sure {
		t.Errorf("positions of two kinds of servers joined: %+v, %v", at, sure)
	}
}

// TestSessionOfAnother: a Session is of one Router, and no concern of others.
func TestSessionOfAnother(t *testing.T) {
	p := newPair(t)
	a, _ := open(t, p.perSession())
	b, _ := open(t, p.perSession())
	upReplicas(t, b, 1)
	ctx, s := a.NewSession(t.Context())
	mustExecIn(t, ctx, b.DB(), update)
	if at, sure := s.known(); at.text != "" || !sure {
		t.Errorf("another router's write: %+v, %v", at, sure)
	}
	if b.session(asks(ctx)) != b.shared {
		t.Error("another router's session is taken for one's own")
	}
}

// FuzzToken: whatever comes in a cookie, signed or not.
func FuzzToken(f *testing.F) {
	r := &Router{keys: [][]byte{[]byte("0123456789abcdef")}}
	f.Add([]byte("m0-1-7"), true)
	f.Add([]byte("y"+uuid+":1-5"), true)
	f.Add([]byte("u"), true)
	f.Add([]byte("m0-1-7"), false)
	f.Fuzz(func(t *testing.T, content []byte, signed bool) {
		token := string(content)
		if signed {
			token = base64.RawURLEncoding.EncodeToString(append(content, sign(r.keys[0], content)...))
		}
		at, sure, err := r.readToken(token)
		switch {
		case err != nil && (!errors.Is(err, ErrToken) || sure || at.text != ""):
			t.Errorf("%q: %+v, %v, %v", token, at, sure, err)
		case err == nil && sure:
			s := &Session{r: r, at: at}
			if again, sure, err := r.readToken(s.Token()); again != at && len(at.text) < maxToken/2 || err != nil {
				t.Errorf("%+v became %+v, %v, %v", at, again, sure, err)
			}
			if clean, err := cleanPosition(at.text); err != nil || clean != at.text {
				t.Errorf("%q: %v", at.text, err)
			}
		}
	})
}

// TestMiddleware: two web servers, each with a router of its own, and a browser
// that goes from one to the other, with the cookie or without.
func TestMiddleware(t *testing.T) {
	p := newPair(t)
	p.replica.SetLag(30 * time.Millisecond)
	var servers []*httptest.Server
	var routers []*Router
	for range 2 {
		r, _ := open(t, p.perSession())
		routers = append(routers, r)
		upReplicas(t, r, 1)
		servers = append(servers, httptest.NewServer(r.Middleware(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.Method == http.MethodPost {
				mustExecIn(t, req.Context(), r.DB(), update)
				w.WriteHeader(http.StatusNoContent)
				return
			}
			w.Write([]byte{'0' + byte(oneIn[int](t, req.Context(), r.DB(), query))})
		}))))
		defer servers[len(servers)-1].Close()
	}
	var cookie *http.Cookie
	do := func(i int, method string) string {
		req, err := http.NewRequestWithContext(t.Context(), method, servers[i].URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		if cookie != nil {
			req.AddCookie(cookie)
		}
		resp, err := servers[i].Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if all := resp.Cookies(); len(all) > 0 {
			cookie = all[0]
			if !cookie.HttpOnly || cookie.SameSite != http.SameSiteLaxMode || cookie.Secure || cookie.Path != "/" {
				t.Errorf("%+v", cookie)
			}
		}
		b := make([]byte, 1)
		n, _ := resp.Body.Read(b)
		return string(b[:n])
	}
	if got := do(0, "GET"); got != "0" || cookie != nil {
		t.Errorf("%q, %v", got, cookie)
	}
	for i := range 6 {
		do(i%2, "POST")
		if got := one[int](t, routers[1-i%2].DB(), query); i == 0 && got != 0 {
			t.Errorf("without a session %d: the replica is not behind, this test proves nothing", got)
		}
		old := cookie
		for range 2 {
			if got, want := do(1-i%2, "GET"), string(rune('1'+i)); got != want {
				t.Errorf("on the other server %q, want %q (cookie %v)", got, want, cookie)
			}
			if cookie != nil && cookie != old {
				t.Error("a read set the cookie")
			}
			cookie = nil
		}
		if i%2 == 0 {
			cookie = old
		}
	}
	cookie = &http.Cookie{Name: CookieName, Value: "junk"}
	do(0, "POST")
	if _, sure, err := routers[1].readToken(cookie.Value); sure || err != nil {
		t.Errorf("after a cookie that is not ours %q: sure %v, %v", cookie.Value, sure, err)
	}
	if got := do(1, "GET"); got != "7" {
		t.Errorf("%q, cookie %q", got, cookie.Value)
	}
	if _, sure, err := routers[1].readToken(cookie.Value); !sure || err != nil {
		t.Errorf("after a read %q: sure %v, %v", cookie.Value, sure, err)
	}
}

// TestMiddlewareTellsPattern: what is around it sees the route that a ServeMux
// below it has found.
func TestMiddlewareTellsPattern(t *testing.T) {
	p := newPair(t)
	r, _ := newRouter(t, p.perSession())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /notes/{id}", func(http.ResponseWriter, *http.Request) {})
	req := httptest.NewRequestWithContext(t.Context(), "GET", "/notes/7", nil)
	r.Middleware(mux).ServeHTTP(httptest.NewRecorder(), req)
	if req.Pattern != "GET /notes/{id}" {
		t.Errorf("the pattern is %q", req.Pattern)
	}
}

// TestMiddlewareWithoutCookie: whoever brings none, or one that is not ours, sees
// everything, and gets a cookie in place of the latter.
func TestMiddlewareWithoutCookie(t *testing.T) {
	p := newPair(t)
	c := p.perSession()
	c.WaitLimit = 10 * time.Millisecond
	a, _ := open(t, c)
	b, rec := open(t, c)
	upReplicas(t, b, 1)
	p.replica.SetLag(time.Hour)
	mustExec(t, a.DB(), update)
	for _, cookie := range []string{"", "junk"} {
		req := httptest.NewRequestWithContext(t.Context(), "GET", "/", nil)
		if cookie != "" {
			req.AddCookie(&http.Cookie{Name: CookieName, Value: cookie})
		}
		out := httptest.NewRecorder()
		b.Middleware(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
			for range 2 {
				if n := oneIn[int](t, req.Context(), b.DB(), query); n != 1 || rec.last(t).Role != Primary {
					t.Errorf("with the cookie %q: %d, %+v", cookie, n, rec.last(t))
				}
			}
		})).ServeHTTP(out, req)
		if got := len(out.Result().Cookies()); got != len(cookie)/len("junk") {
			t.Errorf("after the cookie %q %d are set", cookie, got)
		}
		// Nor may one that is not ours stay if nothing was read.
		out = httptest.NewRecorder()
		b.Middleware(http.NotFoundHandler()).ServeHTTP(out, req)
		if got := len(out.Result().Cookies()); got != len(cookie)/len("junk") {
			t.Errorf("after the cookie %q and nothing read %d are set", cookie, got)
		}
	}
}

// TestCookieComesFirst: in whatever way the response begins, the cookie is in its
// head.
func TestCookieComesFirst(t *testing.T) {
	p := newPair(t)
	r, _ := newRouter(t, p.perSession())
	for about, begin := range map[string]func(http.ResponseWriter){
		"Write":              func(w http.ResponseWriter) { w.Write([]byte("x")) },
		"ReadFrom":           func(w http.ResponseWriter) { w.(io.ReaderFrom).ReadFrom(strings.NewReader("x")) },
		"Flush":              func(w http.ResponseWriter) { w.(http.Flusher).Flush() },
		"WriteHeader":        func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) },
		"switching":          func(w http.ResponseWriter) { w.WriteHeader(http.StatusSwitchingProtocols) },
		"nothing is written": func(http.ResponseWriter) {},
	} {
		for _, secure := range []bool{false, true} {
			rec := httptest.NewRecorder()
			req := httptest.NewRequestWithContext(t.Context(), "POST", "/", nil)
			if req.TLS = nil; secure {
				req.TLS = new(tls.ConnectionState)
			}
			r.Middleware(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				r.session(asks(req.Context())).wrote(position{mariaDB, "0-1-7"}, true)
				begin(w)
				if about != "nothing is written" && rec.Result().Header.Get("Set-Cookie") == "" {
					t.Errorf("%s: the response has begun without the cookie", about)
				}
			})).ServeHTTP(rec, req)
			if all := rec.Result().Cookies(); len(all) != 1 || all[0].Secure != secure || !all[0].HttpOnly || all[0].Name != CookieName {
				t.Errorf("%s, TLS %v: cookies %v", about, secure, all)
			}
		}
	}
}

// TestTokenWriter: the abilities of the writer below are not lost.
func TestTokenWriter(t *testing.T) {
	p := newPair(t)
	r, _ := newRouter(t, p.perSession())
	rec := httptest.NewRecorder()
	r.Middleware(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.session(asks(req.Context())).wrote(position{mariaDB, "0-1-7"}, true)
		w.WriteHeader(http.StatusEarlyHints)
		if rec.Header().Get("Set-Cookie") != "" {
			t.Error("the cookie is set before the final head")
		}
		if _, ok := w.(io.ReaderFrom); !ok {
			t.Error("it is no io.ReaderFrom")
		}
		w.(http.Flusher).Flush()
		if _, _, err := http.NewResponseController(w).Hijack(); !errors.Is(err, http.ErrNotSupported) {
			t.Errorf("%v", err)
		}
	})).ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), "GET", "/", nil))
	if !rec.Flushed || rec.Header().Get("Set-Cookie") == "" {
		t.Errorf("%+v", rec)
	}
}
