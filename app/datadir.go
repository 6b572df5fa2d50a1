package app

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/prometheus/prometheus/tsdb/fileutil"
)

// releaser gives a lock back; it has Close so that it composes.
type releaser struct{ fileutil.Releaser }

func (r releaser) Close() error { return r.Release() }

// lockDataDir makes the data folder and takes it for this process. The lock is
// the kernel's: it ends with the process, however that ends.
func lockDataDir(dir string) (io.Closer, error) {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("data_dir: %w", err)
	}
	lock, _, err := fileutil.Flock(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, fmt.Errorf("data_dir: %s is in use by another process: %w", dir, err)
	}
	return releaser{lock}, nil
}
