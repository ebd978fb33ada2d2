package dbrouter

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"os"
	osexec "os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"

	"github.com/palisade-go/palisade/dbrouter/mysqltest/mariadb"
)

// TestPairs writes through one of two processes and reads through the other, or
// the same, at several lags: not one read may miss the write before it.
func TestPairs(t *testing.T) { testPairs(t, 2000) }

func testPairs(t *testing.T, pairs int) {
	c := cluster(t, 2)
	lag := delay(t, c)
	if err := c.Nodes()[0].Exec(t.Context(), "CREATE TABLE app.pairs (id BIGINT AUTO_INCREMENT PRIMARY KEY, v BIGINT NOT NULL)"); err != nil {
		t.Fatal(err)
	}
	for _, d := range []time.Duration{0, 10 * time.Millisecond, time.Second} {
		lag.Store(int64(d))
		t.Run(d.String(), func(t *testing.T) { pairsAt(t, c, d, pairs/6) })
	}
	t.Run("lag", func(t *testing.T) { lagOnTheWay(t, c) })
}

// pairsAt does the pairs once with Global and once with sessions in cookies.
func pairsAt(t *testing.T, c *mariadb.Cluster, lag time.Duration, pairs int) {
	conf := pairConfig{WaitLimit: 5 * time.Second, MaxLag: time.Minute, Key: []byte("0123456789abcdef")}
	if lag >= time.Second {
		// What is not there by then will not be soon.
		conf.WaitLimit, conf.MaxLag = 50*time.Millisecond, 0
	}
	for _, n := range c.Nodes() {
		conf.DSNs = append(conf.DSNs, n.AppConfig().FormatDSN())
	}
	handler, stop, err := newPairHandler(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	here := httptest.NewServer(handler)
	defer here.Close()
	there := otherProcess(t, conf)
	for _, mode := range []string{"global", "session"} {
		begun := time.Now()
		var done, stale, replica atomic.Int64
		var wg sync.WaitGroup
		for worker := range 16 {
			wg.Go(func() {
				jar, err := cookiejar.New(nil)
				if err != nil {
					t.Error(err)
					return
				}
				transport := &http.Transport{}
				defer transport.CloseIdleConnections()
				client := &http.Client{Transport: transport}
				if mode == "session" {
					client.Jar = jar
				}
				urls := []string{here.URL, there}
				for i := worker; i < pairs; i += 16 {
					id, _, err := fetch(client, fmt.Sprintf("%s/%s/write?v=%d", urls[i%2], mode, i))
					if err != nil {
						t.Errorf("write: %v", err)
						return
					}
					got, role, err := fetch(client, fmt.Sprintf("%s/%s/read?id=%s", urls[i/2%2], mode, id))
					if err != nil {
						t.Errorf("read: %v", err)
						return
					}
					done.Add(1)
					if got != fmt.Sprint(i) {
						stale.Add(1)
					}
					if role == Replica.String() {
						replica.Add(1)
					}
				}
			})
		}
		wg.Wait()
		t.Logf("%v %s: %d pairs, %d stale, %d read on replicas", time.Since(begun), mode, done.Load(), stale.Load(), replica.Load())
		if stale.Load() > 0 {
			t.Errorf("%s: %d of %d reads were stale", mode, stale.Load(), done.Load())
		}
		if lag <= 10*time.Millisecond && replica.Load() < int64(pairs)*9/10 {
			t.Errorf("%s: only %d of %d reads were done by replicas", mode, replica.Load(), pairs)
		}
	}
}

// pairConfig is what both processes are told.
type pairConfig struct {
	DSNs      []string
	WaitLimit time.Duration
	MaxLag    time.Duration
	Key       []byte
}

// roleKey is the context key of where OnStatement leaves the role.
type roleKey struct{}

// newPairHandler serves writes and reads, below /global/ and /session/.
func newPairHandler(ctx context.Context, conf pairConfig) (h http.Handler, stop func(), err error) {
	var routers []*Router
	stop = func() {
		for _, r := range routers {
			r.Close()
		}
	}
	mux := http.NewServeMux()
	for mode, consistency := range map[string]Consistency{"global": Global, "session": PerSession} {
		c := Config{Consistency: consistency, WaitLimit: conf.WaitLimit, MaxLag: conf.MaxLag, TokenKeys: [][]byte{conf.Key}, Logger: slog.New(slog.DiscardHandler),
			OnStatement: func(ctx context.Context, s Statement) {
				if role, ok := ctx.Value(roleKey{}).(*Role); ok {
					*role = s.Role
				}
			}}
		for _, dsn := range conf.DSNs {
			parsed, err := mysql.ParseDSN(dsn)
			if err != nil {
				return nil, stop, err
			}
			c.Nodes = append(c.Nodes, Node{Config: parsed})
		}
		r, err := New(c)
		if err != nil {
			return nil, stop, err
		}
		routers = append(routers, r)
		if err := r.Ready(ctx); err != nil {
			return nil, stop, err
		}
		var served http.Handler = pairs(r)
		if consistency == PerSession {
			served = r.Middleware(served)
		}
		mux.Handle("/"+mode+"/", http.StripPrefix("/"+mode, served))
	}
	return mux, stop, nil
}

func pairs(r *Router) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		var role Role
		ctx := context.WithValue(req.Context(), roleKey{}, &role)
		var answer int64
		var err error
		if req.URL.Path == "/write" {
			res, execErr := r.DB().ExecContext(ctx, "INSERT INTO pairs (v) VALUES (?)", req.FormValue("v"))
			if err = execErr; err == nil {
				answer, err = res.LastInsertId()
			}
		} else {
			err = r.DB().QueryRowContext(ctx, "SELECT COALESCE(MAX(v), -1) FROM pairs WHERE id = ?", req.FormValue("id")).Scan(&answer)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Role", role.String())
		fmt.Fprint(w, answer)
	})
}

func fetch(client *http.Client, url string) (answer, role string, err error) {
	res, err := client.Get(url)
	if err != nil {
		return "", "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, b)
	}
	return string(b), res.Header.Get("Role"), err
}

// pairProcess is the environment variable that makes this test binary the other
// process.
const pairProcess = "DBROUTER_TEST_PAIRS"

// otherProcess starts it, and returns its URL.
func otherProcess(t *testing.T, conf pairConfig) string {
	t.Helper()
	cmd := osexec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), pairProcess+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close() // it ends then
		if err := cmd.Wait(); err != nil {
			t.Errorf("the other process: %v", err)
		}
	})
	if err := json.NewEncoder(in).Encode(conf); err != nil {
		t.Fatal(err)
	}
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the other process does not come up: %v", err)
	}
	return strings.TrimSpace(url)
}

// servePairs is the other process. It lasts until its standard input ends.
func servePairs() error {
	in := bufio.NewReader(os.Stdin)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return err
	}
	var conf pairConfig
	if err := json.Unmarshal(line, &conf); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	h, stop, err := newPairHandler(ctx, conf)
	if err != nil {
		return err
	}
	defer stop()
	s := httptest.NewServer(h)
	defer s.Close()
	fmt.Println(s.URL)
	_, err = io.Copy(io.Discard, in)
	return err
}

// delay puts something between the replicas and their primary by which they
// receive everything later, by the nanoseconds returned.
func delay(t *testing.T, c *mariadb.Cluster) *atomic.Int64 {
	t.Helper()
	by := new(atomic.Int64)
	for _, n := range c.Nodes()[1:] {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() { relay(&wg, ln, c.Nodes()[0].Addr, by) })
		t.Cleanup(func() {
			n.Stop() // which ends its connection
			ln.Close()
			wg.Wait()
		})
		_, port, err := net.SplitHostPort(ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Exec(t.Context(), "STOP SLAVE", "CHANGE MASTER TO MASTER_PORT="+port+", MASTER_USE_GTID=slave_pos", "START SLAVE"); err != nil {
			t.Fatal(err)
		}
	}
	return by
}

// relay passes connections on; what comes back is late.
func relay(wg *sync.WaitGroup, ln net.Listener, addr string, by *atomic.Int64) {
	for {
		replica, err := ln.Accept()
		if err != nil {
			return
		}
		primary, err := net.Dial("tcp", addr)
		if err != nil {
			replica.Close()
			continue
		}
		type piece struct {
			due time.Time
			b   []byte
		}
		late := make(chan piece, 1<<14)
		wg.Go(func() {
			io.Copy(primary, replica)
			primary.Close()
		})
		wg.Go(func() {
			defer close(late)
			for {
				b := make([]byte, 4096)
				n, err := primary.Read(b)
				if err != nil {
					return
				}
				late <- piece{time.Now().Add(time.Duration(by.Load())), b[:n]}
			}
		})
		wg.Go(func() {
			defer replica.Close()
			for p := range late {
				time.Sleep(time.Until(p.due))
				if _, err := replica.Write(p.b); err != nil {
					primary.Close() // the reader above ends
				}
			}
		})
	}
}
