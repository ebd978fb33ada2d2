// Package mysqltest is a server in the test's own process that speaks enough of
// the MySQL protocol for github.com/go-sql-driver/mysql, and that fails when
// told to: scripted errors, replication lag, read_only, cut connections, death
// and restart.
//
// It holds no data. A [Handler] answers the statements that concern data; the
// server answers by itself what a client says to any server: the handshake,
// SET, SELECT of system variables, transactions, KILL and the state of
// replication.
//
//	primary, err := mysqltest.New(mysqltest.Config{Handler: store})
//	if err != nil { … }
//	defer primary.Close()
//	replica, err := mysqltest.New(mysqltest.Config{Handler: copy, Source: primary, ReadOnly: true})
//	if err != nil { … }
//	defer replica.Close()
//	db, err := sql.Open("mysql", primary.DSN())
//
// # Which type when
//
//   - [Server] is one server. [Config] says what it is: its accounts, its
//     version, whose replica.
//   - [Handler], or [HandlerFunc], gets a [Query] and returns a [Result] or an
//     [Error].
//   - [Fault] is a scripted failure: an error, a delay, a connection cut before
//     a statement takes effect or after it.
//   - The mariadb package below this one starts real servers instead.
//
// # Replication
//
// Every write that the handler answers without an error goes to the server's
// log under a GTID in MariaDB's form (0-<server id>-<n>), those of a transaction
// at its COMMIT. A replica gets the log of its source and applies it in order,
// each transaction Lag after its commit, by handing the same statements to its
// own handler. So two handlers over separate states are a primary and a copy of
// it. Writes run one at a time, so that the log has the order in which they took
// effect; reads run concurrently. @@gtid_binlog_pos, @@gtid_slave_pos,
// @@gtid_current_pos, @@last_gtid, MASTER_GTID_WAIT and SHOW SLAVE STATUS tell
// the state, and a client that asks for session tracking gets last_gtid in the
// OK packet of the write. With a MySQL version the GTIDs are MySQL's
// (<server_uuid>:<n>): @@gtid_executed, WAIT_FOR_EXECUTED_GTID_SET, SHOW REPLICA
// STATUS and session_track_gtids tell of them, unless gtid_mode was set to OFF. A replica that holds a write its source lacks stops
// with an error, as a real one does.
//
// # Guarantees
//
// A malformed packet ends its connection and nothing else. Packets, connections,
// prepared statements, the log and the record of statements are bounded. Every
// goroutine ends on Close. All types are safe for concurrent use.
//
// # Limits
//
// A write is recognised by its first keyword, not by a parser. The handler's
// effects are not undone by ROLLBACK unless [Config.Transactions] is set and the
// handler does it. There are no savepoints, no compression, no multi-statement, no LOAD
// DATA LOCAL, no cursor, no packet of 16 MiB or more, and no authentication but
// mysql_native_password and caching_sha2_password. Any account may do anything, KILL and SET GLOBAL
// included, and read_only binds every account. MySQL's GTIDs have no tags, and the
// writes of each server no gaps. A query goes on when its client has gone, as on a real server:
// KILL QUERY ends it.
package mysqltest
