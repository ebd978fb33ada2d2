package dbrouter_test

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/palisade-go/palisade/dbrouter"
)

// routers starts the examples' servers and n routers, as of n web servers.
func routers(n int) (rs []*dbrouter.Router, stop func(), err error) {
	nodes, stopServers, err := servers()
	if err != nil {
		return nil, nil, err
	}
	for range n {
		r, err := dbrouter.New(dbrouter.Config{
			Nodes:       nodes,
			Consistency: dbrouter.PerSession,
			WaitLimit:   10 * time.Second,
			TokenKeys:   [][]byte{[]byte("a secret that the web servers share")},
			Logger:      slog.New(slog.DiscardHandler),
		})
		if err != nil {
			return nil, nil, err
		}
		rs = append(rs, r)
		waitForNodes(r)
	}
	return rs, func() {
		for _, r := range rs {
			r.Close()
		}
		stopServers()
	}, nil
}

func ExampleRouter_NewSession() {
	rs, stop, err := routers(2)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	ctx, session := rs[0].NewSession(context.Background())
	if _, err := rs[0].DB().ExecContext(ctx, "UPDATE counter SET n = n + 1"); err != nil {
		fmt.Println(err)
		return
	}
	// The other process gets the token, by whatever way, and sees the write.
	ctx, _, err = rs[1].WithToken(context.Background(), session.Token())
	if err != nil {
		fmt.Println(err)
		return
	}
	var n int
	if err := rs[1].DB().QueryRowContext(ctx, "SELECT n FROM counter").Scan(&n); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("n =", n)
	// Output:
	// n = 1
}

func ExampleRouter_Middleware() {
	rs, stop, err := routers(1)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	handler := rs[0].Middleware(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		// The context of the request carries the session.
		if _, err := rs[0].DB().ExecContext(req.Context(), "UPDATE counter SET n = n + 1"); err != nil {
			http.Error(w, "database", http.StatusServiceUnavailable)
		}
	}))
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest("POST", "/", nil))
	fmt.Println(w.Code, w.Result().Cookies()[0].Name)
	// Output:
	// 200 dbrouter-session
}

func ExampleRouter_Tx() {
	rs, stop, err := routers(1)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	ctx := context.Background()
	err = rs[0].Tx(ctx, nil, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, "UPDATE counter SET n = n + 1")
		return err
	})
	fmt.Println(dbrouter.OutcomeOf(err))
	// Output:
	// committed
}

func ExampleRouter_Explain() {
	rs, stop, err := routers(1)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer stop()
	ctx := context.Background()
	fmt.Println(rs[0].Explain(ctx, "SELECT n FROM counter"))
	fmt.Println(rs[0].Explain(dbrouter.WithReplica(ctx, 0), "SELECT n FROM counter"))
	fmt.Println(rs[0].Explain(ctx, "SELECT n FROM counter FOR UPDATE"))
	// Output:
	// read → replica db2: SELECT; sees every write made through this router
	// read → replica db2: SELECT; sees what is older than 1s
	// write → primary db1: locks rows
}
