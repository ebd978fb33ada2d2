// Package dbrouter spreads the statements of a plain *sql.DB over a MySQL or
// MariaDB primary and its replicas: what is certainly a read goes to a replica,
// everything else to the primary, and a read sees every write acknowledged
// before it began, whoever wrote it.
//
//	router, err := dbrouter.New(dbrouter.Config{Nodes: []dbrouter.Node{
//		{Name: "db1", Config: conf1}, // *mysql.Config of go-sql-driver
//		{Name: "db2", Config: conf2},
//	}})
//	if err != nil { … }
//	defer router.Close()
//	if err := router.Ready(ctx); err != nil { … }
//	db := router.DB() // a *sql.DB like any other
//
// # Which type when
//
//   - [Router] is all that most programs need. Its DB does the routing;
//     [Router.Status], [Config.OnStatement] and [Config.OnStateChange] show it.
//   - [Consistency] says what a read on a replica is certain to see. [Global],
//     the default, sees everything, whoever wrote it. [PerSession] sees all that
//     its [Session] has written, and asks nobody. [Eventual] may be stale.
//     [WithPrimary] and [WithReplica] are exceptions for single statements.
//   - [Session] is one user's writes. Its [Session.Token] takes them to another
//     process; [Router.Middleware] does so in a cookie.
//   - [Router.Tx] does a transaction, again if the server has rolled it back.
//     [OutcomeOf] says what has become of a statement that failed.
//   - [Router.AddNode], [Router.RemoveNode], [Router.Drain] and [Router.Resume]
//     change the nodes while the Router runs.
//   - [Router.Check] looks once, at the start, for what is wrong with the servers
//     and the account, and says how to mend it.
//   - [Digest] is what statements have in common that differ in their values: the
//     key for metrics by statement in OnStatement and OnSlow, and of Config.Deny.
//   - [Classify] is the decision by itself, pure, for tests and tools;
//     [Router.Explain] says where it leads to now.
//
// # What goes where
//
// The classifier is a small lexer that fails closed. A statement is a read if it
// begins with SELECT or WITH and nothing in it might write, lock, or depend on
// the session: no locking clause, no INTO, no variable, no executable comment,
// no second statement, no function but those known to only read, and nothing
// that servers read differently depending on their sql_mode.
//
// Under it there is a net on the server: sessions on replicas are set to READ
// ONLY, so that whatever only looked like a read is refused there with error
// 1792, without effect, and then done on the primary. It holds for accounts that
// a server's read_only does not bind as well.
//
// A statement that leaves something behind in its session, such as SET, a user
// variable, a temporary table, LOCK TABLES, GET_LOCK or BEGIN as text, pins the
// session: everything else in the same sql.Conn goes to the same server
// connection, which is closed afterwards instead of being used by others. If it
// is lost, the sql.Conn is lost; it never goes on without its state. A
// transaction is done by one connection: of a replica if it is read-only, else
// of the primary.
//
// # Which node is the primary
//
// The one whose read_only is 0. It is found out and followed: a look at each
// node every CheckInterval, and at once when an answer tells that a role has
// changed. If two nodes are writable, only the one that was the primary before
// is written to; if neither was, none is. The router follows a failover, it
// does not perform one.
//
// Connections to a node that has lost its role, or that is down, drained or
// removed, are closed.
//
// # Which replica
//
// One that is known to have what the read must see, before one that may have to
// be waited for; of those one in Config.Zone; of those one by chance, with odds
// in proportion to Node.Weight and to the inverse square of what a read takes
// there, by its latest reads and those that it is doing. A replica that comes
// back gets a tenth of its share at first, and all of it after
// Config.SlowStart. One that fails EjectAfter reads in a row is ejected for
// EjectFor.
//
// # What is repeated
//
// A read whose connection was lost before its first row is repeated on another
// node. Any other statement is repeated only if nothing of it was sent. The
// error of a write that may have been done is the driver's, and never
// driver.ErrBadConn, on which database/sql would do it again. A caller's
// cancellation is never a sign about a node. When the context of a statement ends,
// the server is told to end it (KILL QUERY).
//
// With [Config.BufferWait] a statement for the primary, or the beginning of a
// transaction, is held back while there is no primary, instead of failing. So is
// one that a node has refused because it has become read-only, as often as that
// happens in the time.
//
// # What each consistency promises
//
//   - Global: every write acknowledged before the read, by whatever client.
//   - PerSession: every write of the read's Session; without one, every write
//     made through the Router.
//   - Eventual: what the replica has, at most MaxLag old when the replica was
//     last looked at. With a Session in the context, all that one's writes.
//   - PrimaryOnly: what the primary has. After a switchover that may be the
//     former primary, until the next look at it.
//
// # How lag is known
//
// At each look at a replica the primary is asked for its GTID position, and the
// replica when it has that: the time in between is the lag. A replica that takes
// longer than a moment is held against the positions that the primary had before,
// each with the time at which it had them: they are the heartbeats, for which
// nobody has to write to a table, and by which a replica cannot be wrong whose
// source has fallen silent or whose applying has stopped. It is looked at more
// often until it has caught up. Seconds_Behind_Master, a server's own account in
// whole seconds, counts only where there are no GTIDs, or while the primary does
// not answer.
//
// # What PerSession costs and what it rests on
//
// The server reports the GTID of each write with its answer: the router asks for
// that in the handshake and reads the reports along, below the driver, so that a
// write has no further round trip. With TLS it therefore does TLS in the driver's
// place, as strictly; with tls=preferred, with TLS set in BeforeConnect, with
// compression, and with a server that does not report, the primary is asked for
// its position after a write of a Session. A session that cannot know all of its
// writes asks before its next read, as under Global.
//
// A read goes to a replica that is known to have its writes, or else waits for
// one, for WaitLimit at most. The first to wait sends the wait along with its
// statement, in front of it, so that it takes no round trip of its own; the router
// takes the answer to it out of what the server sends. Those who come meanwhile
// share questions. If the replica does not catch up, nothing of what it says to
// the statement is used: the connection is closed, and what was sent on it is
// ended with KILL CONNECTION. Until it has caught up, waits go to it without a
// statement. The primary does the read then, once it is known to have the
// writes too: it may be a former primary, or a new one that never got them. In
// the latter case an acknowledged write was lost, and the read fails with
// [ErrWriteLost], once for each session.
//
// # What Global costs and what it rests on
//
// Before a read the primary is asked for its GTID position, and the replica's
// connection waits until that is applied, for WaitLimit at most; then the
// primary does the read. The question is one small round trip; all reads that
// arrive before it is sent share it. The wait costs nothing if the replica is
// known to have the position.
//
// It is exact as long as no more than one node is writable at a time, all writes
// get a GTID and are replicated (no sql_log_bin=0, no filters), and a replica
// commits transactions in order. On MySQL it needs gtid_mode=ON. Without GTIDs
// all reads go to the primary. While no primary is known there are no Global
// reads. Statements that go to the primary for another reason than being a read,
// [WithPrimary] among them, are not checked: just after a switchover they may be
// done by the former primary until the next look at it.
//
// # Limits
//
// All other nodes must have read_only=1, and the application's account must lack
// the privilege that overrides it. An account that may not
// read the state of replication (SLAVE MONITOR on MariaDB, REPLICATION CLIENT on
// MySQL) can still be used with Global.
//
// A prepared statement is prepared at its execution, so that its mistakes show
// then, and kept by its connection. Connections are made to the networks tcp and unix, or by a DialFunc.
// Statements in character sets other than UTF-8 go to the primary. An account
// with sha256_password, which MySQL has replaced by caching_sha2_password, cannot
// log in over the router's TLS. There is no sharding, and no support for Galera
// or Group Replication beyond following read_only.
package dbrouter
