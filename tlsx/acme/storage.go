package acme

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/caddyserver/certmagic"

	"github.com/palisade-go/palisade/tlsx"
)

// SharedStorage is a tlsx.Storage in a certmagic.Storage: ticket keys and the
// internal authority can be where the cluster's certificates are. Its values are
// under the prefix "palisade". It is as safe for concurrent use as the storage.
type SharedStorage struct {
	// Storage is what the cluster shares. Nil makes every call an error.
	Storage certmagic.Storage
}

// Load implements tlsx.Storage.
func (s SharedStorage) Load(ctx context.Context, name string) ([]byte, error) {
	if s.Storage == nil {
		return nil, errors.New("acme: SharedStorage.Storage is nil, want one")
	}
	return s.Storage.Load(ctx, storageKey(name))
}

// Swap implements tlsx.Storage, under a lock of the storage.
func (s SharedStorage) Swap(ctx context.Context, name string, old, value []byte) (err error) {
	if s.Storage == nil {
		return errors.New("acme: SharedStorage.Storage is nil, want one")
	}
	key := storageKey(name)
	if err := s.Storage.Lock(ctx, key); err != nil {
		return err
	}
	defer func() {
		// The lock must not stay because the caller has gone.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storageTimeout)
		defer cancel()
		err = errors.Join(err, s.Storage.Unlock(ctx, key))
	}()
	present, err := s.Storage.Load(ctx, key)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if !bytes.Equal(present, old) {
		return fmt.Errorf("acme: %s: %w", key, tlsx.ErrConflict)
	}
	return s.Storage.Store(ctx, key, value)
}

func storageKey(name string) string { return "palisade/" + certmagic.StorageKeys.Safe(name) }
