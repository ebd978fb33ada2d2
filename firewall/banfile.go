package firewall

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// maxBanFileBytes holds as many bans as there can be, with reasons of which
// every byte takes six as JSON.
const maxBanFileBytes = maxBans * (6*maxReasonBytes + 200)

// banFile is what SaveBans writes, as JSON.
type banFile struct {
	Bans []banRecord `json:"bans"`
}

type banRecord struct {
	Prefix netip.Prefix `json:"prefix"`
	Reason string       `json:"reason"`
	Until  time.Time    `json:"until"`
}

// SaveBans writes the bans in force to a file, for [Firewall.LoadBans] after a
// restart. The file is replaced as a whole: a crash leaves the old one or the new
// one. What is no plain file, such as a device, is not replaced; that is an error.
// Only its owner may read it, since it tells who was banned and why. Call it
// at the end, and now and then before, since what was not saved is lost in a
// crash.
func (f *Firewall) SaveBans(path string) error {
	out := banFile{Bans: []banRecord{}}
	for _, b := range f.Bans() {
		// To the second, so that the time it takes to save and load does not
		// add up over many restarts.
		b.Until = b.Until.UTC().Round(time.Second)
		out.Bans = append(out.Bans, banRecord(b))
	}
	text, err := json.MarshalIndent(out, "", "\t")
	if err != nil {
		return fmt.Errorf("firewall: save bans: %w", err)
	}
	if err := replaceFile(path, append(text, '\n')); err != nil {
		return fmt.Errorf("firewall: save bans: %w", err)
	}
	return nil
}

// replaceFile writes next to the file, and to the disk before it renames.
func replaceFile(path string, text []byte) error {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return &os.PathError{Op: "write", Path: path, Err: errNotPlain}
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	_, err = tmp.Write(text)
	if err == nil {
		err = tmp.Sync()
	}
	err = errors.Join(err, tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

// LoadBans adds the bans that [Firewall.SaveBans] wrote to a file, but for those
// that have ended since; a prefix that is banned already stays so until the later
// of the two times. A file with any mistake, or that is no plain file, is refused
// and changes nothing. If there is no file the error is [os.ErrNotExist]. It returns
// [ErrTooManyBans] if there is no room for all, and then some were added.
func (f *Firewall) LoadBans(path string) error {
	file, err := openPlain(path)
	if err != nil {
		return fmt.Errorf("firewall: load bans: %w", err)
	}
	defer file.Close()
	records, err := readBans(file)
	if err != nil {
		return fmt.Errorf("firewall: load bans: %s: %w", path, err)
	}
	now, clock := f.now(), time.Now()
	for _, r := range records {
		ttl := r.Until.Sub(clock)
		if ttl <= 0 || int64(ttl) > math.MaxInt64-now {
			continue // over, or as good as for ever and so not from SaveBans
		}
		if err := f.bans.add(r.Prefix, banEntry{until: now + int64(ttl), reason: r.Reason}, now); err != nil {
			return fmt.Errorf("%w: no room for %v", err, r.Prefix)
		}
	}
	f.logger.Info("firewall: bans loaded", "file", path, "bans", len(records))
	return nil
}

// readBans reads a file of bans, and checks all of it.
func readBans(r io.Reader) ([]banRecord, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxBanFileBytes+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxBanFileBytes {
		return nil, fmt.Errorf("more than %d bytes", maxBanFileBytes)
	}
	var in banFile
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("more than one JSON value")
	}
	if len(in.Bans) > maxBans {
		return nil, fmt.Errorf("%d bans, want at most %d", len(in.Bans), maxBans)
	}
	for i, b := range in.Bans {
		clean, err := canonicalPrefix(b.Prefix)
		if err != nil {
			return nil, fmt.Errorf("ban %d: %w", i, err)
		}
		in.Bans[i].Prefix = clean
		if b.Until.IsZero() || len(b.Reason) > maxReasonBytes {
			return nil, fmt.Errorf("ban %d of %v: no end, or a reason of more than %d bytes", i, clean, maxReasonBytes)
		}
	}
	return in.Bans, nil
}
