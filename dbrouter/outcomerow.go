package dbrouter

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

const errDuplicate = 1062

// outcomeRow is the row that a transaction leaves in Config.OutcomeTable: it is
// there if and only if the transaction was committed.
type outcomeRow struct {
	table, token string
}

func newOutcomeRow(table string) (outcomeRow, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return outcomeRow{}, err
	}
	return outcomeRow{table, hex.EncodeToString(b[:])}, nil
}

// insert is the statement that takes the token, once for all time.
func (o outcomeRow) insert(committed bool) string {
	n := "0"
	if committed {
		n = "1"
	}
	return "INSERT INTO " + o.table + " (token, committed) VALUES ('" + o.token + "', " + n + ")"
}

// committed finds out what has become of a transaction whose COMMIT was not
// answered, by taking its token. If that can be had, the transaction was not
// committed and cannot be any more, even if a server still has it: its own row
// would be a duplicate. If it cannot, the row tells who was first; a transaction
// that is still being decided holds a lock on it until it is.
func (r *Router) committed(ctx context.Context, o outcomeRow) (done bool, err error) {
	wait := txFirstWait
	for range txTries {
		_, err = r.db.ExecContext(ctx, o.insert(false))
		if serverError(err) == errDuplicate {
			err = r.db.QueryRowContext(WithPrimary(ctx), "SELECT committed FROM "+o.table+" WHERE token = '"+o.token+"'").Scan(&done)
			if err == nil {
				return done, nil
			}
		}
		if err == nil {
			return false, nil
		}
		// Whether this INSERT was done does not matter: it is the same again.
		if !transient(err) && OutcomeOf(err) != Unknown && !errors.Is(err, sql.ErrNoRows) || !r.pause(ctx, &wait) {
			return false, err
		}
	}
	return false, err
}

// tableName says whether a name can stand in a statement as it is: letters,
// digits and underscores, maybe with a database before it.
func tableName(s string) error {
	for part := range strings.SplitSeq(s, ".") {
		if part == "" || strings.Trim(part, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_") != "" {
			return fmt.Errorf("dbrouter: Config.OutcomeTable is %q, want a name of letters, digits and underscores, or two with a dot between", s)
		}
	}
	if strings.Count(s, ".") > 1 {
		return fmt.Errorf("dbrouter: Config.OutcomeTable is %q, want one dot at most", s)
	}
	return nil
}
