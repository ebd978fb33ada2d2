package dbrouter

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
)

// ErrToken is wrapped by the error for a text that is no token made with one of
// the Router's keys.
var ErrToken = errors.New("dbrouter: not a token of ours")

const (
	// tokenMac is the length of a token's signature: half of HMAC-SHA-256, as
	// RFC 2104 section 5 allows.
	tokenMac = sha256.Size / 2
	// maxToken keeps a token well below what a cookie may have. A longer position
	// is left out, so that its reader asks the primary.
	maxToken = 2048
	minKey   = 16
	maxKeys  = 16
)

// The first byte of a token's content.
const (
	tokenUnsure  = 'u' // there may be more than the position that follows
	tokenEmpty   = 'e'
	tokenMariaDB = 'm'
	tokenMySQL   = 'y'
)

// Token returns what the session must see as a signed text of letters, digits,
// dashes and underscores, for [Router.WithToken] of another process with the
// same Config.TokenKeys. It is short: about 50 bytes with MariaDB and 100 with
// MySQL. It shows how many writes the servers have had, and nothing of what was
// written.
func (s *Session) Token() string {
	at, sure := s.known()
	content := []byte{tokenEmpty}
	switch {
	case !sure:
		content[0] = tokenUnsure
	case at.text == "":
	case at.dialect == mariaDB:
		content = append([]byte{tokenMariaDB}, at.text...)
	default:
		content = append([]byte{tokenMySQL}, at.text...)
	}
	if len(content) > maxToken/2 {
		content = []byte{tokenUnsure}
	}
	return base64.RawURLEncoding.EncodeToString(append(content, sign(s.r.keys[0], content)...))
}

func sign(key, content []byte) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte("dbrouter token 1\x00"))
	mac.Write(content)
	return mac.Sum(nil)[:tokenMac]
}

// WithToken returns a context whose statements belong to a Session that
// continues the one the token is of: its reads see all that the other had
// written by then. The error wraps [ErrToken] if the token is not one of ours;
// the Session returned sees then, at the price of a question to the primary,
// everything written before its first read.
func (r *Router) WithToken(ctx context.Context, token string) (context.Context, *Session, error) {
	ctx, s := r.NewSession(ctx)
	err := s.resume(token)
	return ctx, s, err
}

func (s *Session) resume(token string) error {
	at, sure, err := s.r.readToken(token)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at, s.unsure = at, !sure
	return err
}

// readToken checks a token and reads it.
func (r *Router) readToken(token string) (at position, sure bool, err error) {
	if len(token) > maxToken {
		return position{}, false, fmt.Errorf("%w: %d bytes, want %d at most", ErrToken, len(token), maxToken)
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(b) <= tokenMac {
		return position{}, false, fmt.Errorf("%w: it has not the form of one", ErrToken)
	}
	content, mac := b[:len(b)-tokenMac], b[len(b)-tokenMac:]
	valid := false
	for _, key := range r.keys {
		valid = hmac.Equal(sign(key, content), mac) || valid
	}
	if !valid {
		return position{}, false, fmt.Errorf("%w: it is not signed with a key of this router", ErrToken)
	}
	switch content[0] {
	case tokenUnsure:
		return position{}, false, nil
	case tokenEmpty:
		return position{}, true, nil
	case tokenMariaDB:
		at.dialect = mariaDB
	case tokenMySQL:
		at.dialect = mySQL
	default:
		return position{}, false, fmt.Errorf("%w: of another version", ErrToken)
	}
	// Signed, but it becomes part of a statement: it is read all the same.
	if at.text, err = join(at.dialect, "", string(content[1:])); err != nil || at.text == "" {
		return position{}, false, fmt.Errorf("%w: it holds no position", ErrToken)
	}
	return at, true, nil
}

// tokenKeys returns copies of the keys, or a random one if there are none.
func tokenKeys(keys [][]byte) ([][]byte, error) {
	if len(keys) > maxKeys {
		return nil, fmt.Errorf("dbrouter: Config.TokenKeys has %d keys, want %d at most", len(keys), maxKeys)
	}
	if len(keys) == 0 {
		key := make([]byte, sha256.Size)
		if _, err := rand.Read(key); err != nil {
			return nil, err
		}
		return [][]byte{key}, nil
	}
	var errs []error
	out := make([][]byte, len(keys))
	for i, k := range keys {
		if len(k) < minKey {
			errs = append(errs, fmt.Errorf("dbrouter: Config.TokenKeys[%d] has %d bytes, want %d or more", i, len(k), minKey))
		}
		out[i] = append([]byte(nil), k...)
	}
	return out, errors.Join(errs...)
}
