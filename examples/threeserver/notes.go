package main

import (
	"context"
	"database/sql"
	"time"
)

// maxListed bounds the list, newest first.
const maxListed = 100

// noteStore keeps notes in MySQL. It is safe for concurrent use.
type noteStore struct{ db *sql.DB }

func (s noteStore) create(ctx context.Context) error {
	_, err := s.db.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS notes (id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, text TEXT NOT NULL, created BIGINT NOT NULL) DEFAULT CHARSET=utf8mb4`)
	return err
}

func (s noteStore) list(ctx context.Context) ([]note, error) {
	rows, err := s.db.QueryContext(ctx, `SELECT id, text, created FROM notes ORDER BY id DESC LIMIT 100`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	notes := make([]note, 0, maxListed)
	for rows.Next() {
		var n note
		var created int64
		if err := rows.Scan(&n.ID, &n.Text, &created); err != nil {
			return nil, err
		}
		n.Created = time.UnixMicro(created).UTC()
		notes = append(notes, n)
	}
	return notes, rows.Err()
}

func (s noteStore) add(ctx context.Context, text string) (note, error) {
	n := note{Text: text, Created: time.Now().UTC().Truncate(time.Microsecond)}
	res, err := s.db.ExecContext(ctx, `INSERT INTO notes (text, created) VALUES (?, ?)`, text, n.Created.UnixMicro())
	if err != nil {
		return note{}, err
	}
	n.ID, err = res.LastInsertId()
	return n, err
}
