// Package ledger keeps the agent's intents: one JSON file per object, replaced
// atomically, read once at start.
//
// A file is written to a temporary one, synced, renamed over the old one, and
// the directory synced (renameio does the first three): after kill -9 or a
// power cut it holds the old object or the new one, never a mixture. One
// damaged file loses one object and is reported; it is never overwritten or
// removed here, since what it owned may still be on the host.
package ledger

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/renameio/v2"

	"github.com/causeway-project/causeway/agent/crashpoint"
)

// Format is the version of the files that this code writes. It reads all up to
// this one; testdata holds a file of each.
const Format = 1

// A Record is one object as it lies on disk. Its secret has a file of its own.
type Record struct {
	Kind string // a directory: "attachment", "network", "export"
	ID   string // a file name without ".json"
	Body json.RawMessage
}

// envelope is a file's content. The id is repeated in it, so that a copied or
// renamed file is found out.
type envelope struct {
	Format int             `json:"format"`
	Kind   string          `json:"kind"`
	ID     string          `json:"id"`
	Body   json.RawMessage `json:"body"`
}

// A Damage is a file that could not be understood.
type Damage struct {
	Kind string
	ID   string // from the file's name
	Path string
	Err  error
}

func (d Damage) String() string { return fmt.Sprintf("%s: %v", d.Path, d.Err) }

// A Ledger is a directory of records. Calls for one object must not overlap;
// calls for different objects may.
type Ledger struct {
	dir string
}

// Open makes the directory with its kinds where it is missing, and reads all
// records. Damaged files are returned beside the good ones.
func Open(dir string, kinds ...string) (*Ledger, []Record, []Damage, error) {
	l := &Ledger{dir: dir}
	var records []Record
	var damaged []Damage
	for _, kind := range kinds {
		if err := os.MkdirAll(filepath.Join(dir, kind), 0o700); err != nil {
			return nil, nil, nil, fmt.Errorf("open ledger: %w", err)
		}
		rs, ds, err := l.read(kind)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("open ledger: %w", err)
		}
		records = append(records, rs...)
		damaged = append(damaged, ds...)
	}
	if err := syncDir(dir); err != nil {
		return nil, nil, nil, fmt.Errorf("open ledger: %w", err)
	}
	return l, records, damaged, nil
}

func (l *Ledger) read(kind string) ([]Record, []Damage, error) {
	entries, err := os.ReadDir(filepath.Join(l.dir, kind))
	if err != nil {
		return nil, nil, err
	}
	var records []Record
	var damaged []Damage
	for _, e := range entries {
		path := filepath.Join(l.dir, kind, e.Name())
		id, isRecord := strings.CutSuffix(e.Name(), ".json")
		if strings.HasPrefix(e.Name(), ".") {
			// A temporary file of a write that was cut short.
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, nil, err
			}
			continue
		}
		if !isRecord {
			continue // a secret, or somebody's own file
		}
		r, err := parse(path, kind, id)
		if err != nil {
			damaged = append(damaged, Damage{Kind: kind, ID: id, Path: path, Err: err})
			continue
		}
		records = append(records, r)
	}
	return records, damaged, nil
}

func parse(path, kind, id string) (Record, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Record{}, err
	}
	var e envelope
	if err := json.Unmarshal(b, &e); err != nil {
		return Record{}, err
	}
	switch {
	case e.Format < 1 || e.Format > Format:
		return Record{}, fmt.Errorf("format %d is not known to this version, which reads up to %d", e.Format, Format)
	case e.Kind != kind || e.ID != id:
		return Record{}, fmt.Errorf("holds %s %q, which is not what its name says", e.Kind, e.ID)
	case len(e.Body) == 0:
		return Record{}, errors.New("has no body")
	}
	return Record{Kind: kind, ID: id, Body: e.Body}, nil
}

// Put writes a record, durably. On an error the old one stands.
func (l *Ledger) Put(kind, id string, body any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("ledger put %s %s: %w", kind, id, err)
	}
	b, err = json.MarshalIndent(envelope{Format: Format, Kind: kind, ID: id, Body: b}, "", "  ")
	if err != nil {
		return fmt.Errorf("ledger put %s %s: %w", kind, id, err)
	}
	if err := l.replace(kind, id+".json", append(b, '\n')); err != nil {
		return fmt.Errorf("ledger put %s %s: %w", kind, id, err)
	}
	crashpoint.Hit(crashpoint.LedgerPut)
	return nil
}

// PutSecret writes an object's secret, before its record.
func (l *Ledger) PutSecret(kind, id string, secret []byte) error {
	if err := l.replace(kind, id+".secret", secret); err != nil {
		return fmt.Errorf("ledger put secret of %s %s: %w", kind, id, err)
	}
	return nil
}

// DeleteSecret removes an object's secret. None there is success.
func (l *Ledger) DeleteSecret(kind, id string) error {
	if err := os.Remove(filepath.Join(l.dir, kind, id+".secret")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("ledger delete secret of %s %s: %w", kind, id, err)
	}
	return nil
}

// Secret reads an object's secret; nil where it has none.
func (l *Ledger) Secret(kind, id string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(l.dir, kind, id+".secret"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ledger secret of %s %s: %w", kind, id, err)
	}
	return b, nil
}

// Delete removes a secret and then its record, durably. None there is success.
func (l *Ledger) Delete(kind, id string) error {
	dir := filepath.Join(l.dir, kind)
	if err := l.DeleteSecret(kind, id); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, id+".json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("ledger delete %s %s: %w", kind, id, err)
	}
	if err := syncDir(dir); err != nil {
		return fmt.Errorf("ledger delete %s %s: %w", kind, id, err)
	}
	crashpoint.Hit(crashpoint.LedgerDelete)
	return nil
}

// replace writes a file of mode 0600 in the four steps of the package comment.
func (l *Ledger) replace(kind, name string, content []byte) error {
	dir := filepath.Join(l.dir, kind)
	if err := renameio.WriteFile(filepath.Join(dir, name), content, 0o600, renameio.WithTempDir(dir)); err != nil {
		return err
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
