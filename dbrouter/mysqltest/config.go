package mysqltest

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"strconv"
	"strings"
	"time"
)

const (
	// DefaultVersion is the version of a server whose Config names none.
	DefaultVersion = "10.11.0-MariaDB-mysqltest"
	// DefaultUser is the account of a server whose Config names none, and its
	// password.
	DefaultUser = "test"

	defaultConnections = 200
	defaultLogEntries  = 10000
)

// Config says what a [Server] is. Its zero value is a writable primary that
// answers error 1235 to every statement that concerns data.
type Config struct {
	// Handler answers the statements that the server does not answer itself. Nil
	// means that each of them is error 1235, not supported.
	Handler Handler
	// Addr is the HOST:PORT to listen on. Empty means a free port of 127.0.0.1
	// between 15000 and 32000, below those that the kernel gives to outgoing
	// connections, so that the server can come back on it.
	Addr string
	// Users maps accounts to passwords; an empty password is one that is empty.
	// Nil means the account "test" with the password "test".
	Users map[string]string
	// Version is what the server says it is. Empty means [DefaultVersion]. A
	// version without "MariaDB" in it, such as "8.0.36", makes the server answer
	// as MySQL does.
	Version string
	// TLS makes the server offer TLS, without asking for it. Nil means none. It is
	// cloned.
	TLS *tls.Config
	// AuthPlugin is how accounts log in: "mysql_native_password" or
	// "caching_sha2_password", MySQL's default, of which the first login of an
	// account takes more round trips. Empty means the former.
	AuthPlugin string
	// ServerID is the number in the server's GTIDs. Zero means its port.
	ServerID uint32
	// ReadOnly is the state of read_only after a start and a restart.
	ReadOnly bool
	// Source makes the server a replica. Nil means a primary.
	Source *Server
	// Lag is the time between a commit at the source and its application here.
	// Zero means at once.
	Lag time.Duration
	// Transactions hands START TRANSACTION, COMMIT and ROLLBACK to the handler,
	// so that it can undo: those of clients, those that other statements and lost
	// connections imply, and those around a replicated transaction of several
	// statements. Query.ConnID tells whose they are.
	Transactions bool
	// MaxConnections bounds the connections; one more gets error 1040. Zero means
	// 200.
	MaxConnections int
	// LogEntries bounds the transactions in the log that replicas catch up from,
	// and those that a replica holds back. Zero means 10000. About 64 MiB of log
	// are kept in any case.
	LogEntries int
	// Logger gets the changes of the server's state. Nil means slog.Default().
	Logger *slog.Logger
}

// settle fills in what the zero values mean, and reports every mistake.
func (c Config) settle() (Config, error) {
	var errs []error
	mistake := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("mysqltest: Config."+format, args...))
	}
	if c.Addr != "" {
		if _, port, err := net.SplitHostPort(c.Addr); err != nil {
			mistake("Addr is %q, want HOST:PORT: %w", c.Addr, err)
		} else if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			mistake("Addr is %q, want a port from 1 to 65535", c.Addr)
		}
	}
	c.Users = maps.Clone(c.Users)
	if c.Users == nil {
		c.Users = map[string]string{DefaultUser: DefaultUser}
	}
	for u := range c.Users {
		if u == "" || strings.ContainsRune(u, 0) {
			mistake("Users has the name %q, want one without zero bytes that is not empty", u)
		}
	}
	if len(c.Users) == 0 {
		mistake("Users is empty, want an account, or nil")
	}
	if c.Version == "" {
		c.Version = DefaultVersion
	}
	if c.Version[0] < '0' || c.Version[0] > '9' || len(c.Version) > 60 || strings.ContainsRune(c.Version, 0) {
		mistake("Version is %q, want a digit first and 60 bytes at most", c.Version)
	}
	if c.TLS != nil {
		c.TLS = c.TLS.Clone()
		if len(c.TLS.Certificates) == 0 && c.TLS.GetCertificate == nil && c.TLS.GetConfigForClient == nil {
			mistake("TLS has no certificate, want one")
		}
	}
	switch c.AuthPlugin {
	case "":
		c.AuthPlugin = nativePassword
	case nativePassword, cachingPassword:
	default:
		mistake("AuthPlugin is %q, want %s or %s", c.AuthPlugin, nativePassword, cachingPassword)
	}
	if c.Lag < 0 {
		mistake("Lag is %v, want zero or more", c.Lag)
	}
	if c.MaxConnections == 0 {
		c.MaxConnections = defaultConnections
	}
	if c.MaxConnections < 1 || c.MaxConnections > 100000 {
		mistake("MaxConnections is %d, want 1 to 100000", c.MaxConnections)
	}
	if c.LogEntries == 0 {
		c.LogEntries = defaultLogEntries
	}
	if c.LogEntries < 1 || c.LogEntries > 10_000_000 {
		mistake("LogEntries is %d, want 1 to 10000000", c.LogEntries)
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c, errors.Join(errs...)
}
