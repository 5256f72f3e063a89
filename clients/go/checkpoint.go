package changefeed

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"sync"
)

// Positions are saved continuation tokens: by physical partition where one is read, otherwise under Whole.
type Positions map[string]string

// Whole names the position of a reader of an entire collection or of a logical partition.
const Whole = "*"

// Checkpoint keeps positions where they outlive this process. One reader at a time uses it. A consumer with a database
// of its own needs none: it saves the token in the transaction of its work and starts at After(token).
type Checkpoint interface {
	// Load returns what was saved, empty when nothing was.
	Load(ctx context.Context) (Positions, error)
	// Save changes some positions, all of them or none; an empty token removes one. Once it returned, whoever kills the
	// process loses nothing of it.
	Save(ctx context.Context, changes Positions) error
}

// MemoryCheckpoint keeps positions as long as the process lives. The zero value is empty.
type MemoryCheckpoint struct {
	mutex     sync.Mutex
	positions Positions
}

// Load implements Checkpoint.
func (m *MemoryCheckpoint) Load(context.Context) (Positions, error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	return maps.Clone(m.positions), nil
}

// Save implements Checkpoint.
func (m *MemoryCheckpoint) Save(_ context.Context, changes Positions) error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.positions = changed(m.positions, changes)
	return nil
}

// FileCheckpoint keeps positions in a file of JSON, which is replaced whole. The zero value of Path is refused by the
// system; a damaged file is an error and never an empty one, since to begin anew in silence would be to miss changes,
// or to repeat all.
type FileCheckpoint struct {
	Path  string
	mutex sync.Mutex
	known Positions
}

// Load implements Checkpoint.
func (f *FileCheckpoint) Load(context.Context) (Positions, error) {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if err := f.read(); err != nil {
		return nil, err
	}
	return maps.Clone(f.known), nil
}

// Save implements Checkpoint.
func (f *FileCheckpoint) Save(_ context.Context, changes Positions) error {
	f.mutex.Lock()
	defer f.mutex.Unlock()
	if f.known == nil {
		if err := f.read(); err != nil {
			return err
		}
	}
	next := changed(f.known, changes)
	text, err := json.Marshal(next)
	if err != nil {
		return err
	}
	if err := replaceFile(f.Path, text); err != nil {
		return err
	}
	f.known = next
	return nil
}

func (f *FileCheckpoint) read() error {
	text, err := os.ReadFile(f.Path)
	if errors.Is(err, fs.ErrNotExist) {
		f.known = Positions{}
		return nil
	}
	if err != nil {
		return err
	}
	known := Positions{}
	if err := json.Unmarshal(text, &known); err != nil || known == nil {
		return fmt.Errorf("%s holds no positions: bring it back, or remove it to start over", f.Path)
	}
	f.known = known
	return nil
}

func changed(positions, changes Positions) Positions {
	next := make(Positions, len(positions)+len(changes))
	maps.Copy(next, positions)
	for name, token := range changes {
		if token == "" {
			delete(next, name)
		} else {
			next[name] = token
		}
	}
	return next
}

// replaceFile leaves the old content or the new one, whenever the machine stops.
func replaceFile(path string, content []byte) error {
	_, err := os.Stat(path)
	isNew := errors.Is(err, fs.ErrNotExist)
	// Always the same name, so that those who are killed leave one at most; what is there now, somebody else may have put
	// there to have it overwritten.
	name := path + ".new"
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	draft, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = draft.Write(content)
	if err == nil {
		err = draft.Sync()
	}
	if closing := draft.Close(); err == nil {
		err = closing
	}
	if err == nil {
		err = os.Rename(name, path)
	}
	if err == nil && isNew {
		makeDurable(filepath.Dir(path))
	}
	return err
}

// makeDurable has the names in a folder survive a crash of the machine, where folders can be opened. A new content may
// come again as the old one, but a file that is gone would have its reader begin elsewhere.
func makeDurable(folder string) {
	if names, err := os.Open(folder); err == nil {
		_ = names.Sync() // Some systems cannot, and keep names in another way.
		_ = names.Close()
	}
}
