package compactor_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
)

var errDown = errors.New("injected")

// dying is a bucket for a process that dies at its n-th write: the write has
// its effect, and nothing reaches the bucket any more.
type dying struct {
	bucket.Bucket
	at int64
	n  atomic.Int64
}

func (d *dying) write(f func() error) error {
	n := d.n.Add(1)
	if n > d.at {
		return errDown
	}
	err := f()
	if n == d.at {
		return errDown
	}
	return err
}

func (d *dying) Put(ctx context.Context, key bucket.Key, r io.ReadSeeker, size int64, cond bucket.Condition) (etag string, err error) {
	err = d.write(func() (err error) {
		etag, err = d.Bucket.Put(ctx, key, r, size, cond)
		return err
	})
	return etag, err
}

func (d *dying) Delete(ctx context.Context, key bucket.Key) error {
	return d.write(func() error { return d.Bucket.Delete(ctx, key) })
}

// TestCrashAtEachWrite has a compactor die at each of its writes to the bucket.
// Readers see every sample right after it, the next compactor ends the work,
// and then each sample is there once.
func TestCrashAtEachWrite(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 11)
	dir := t.TempDir()
	w.bucket = folderAt(t, dir)
	from := dayStart(3)
	w.shipSlot("own", []tenant.ID{"own"}, 2, from)
	w.shipSlot(bucket.PoolHome, []tenant.ID{"a", "b", "c"}, 2, from)

	step := int64(1)
	if testing.Short() {
		step = 7
	}
	for at := int64(1); ; at += step {
		copied := t.TempDir()
		require.NoError(t, os.CopyFS(copied, os.DirFS(dir)))
		v := &world{TB: t, bucket: folderAt(t, copied), want: w.want}
		d := &dying{Bucket: v.bucket, at: at}
		c := v.compactor(d, 8, forEver)
		err := c.Round(t.Context())
		if err == nil {
			err = c.Round(t.Context()) // deletes what the first has replaced
		}
		if d.n.Load() < at {
			require.NoError(t, err)
			require.Zero(t, v.requireContent("own", bucket.PoolHome))
			t.Logf("%d writes", d.n.Load())
			break
		}
		v.requireContent("own", bucket.PoolHome)
		require.NoError(t, v.compactor(v.bucket, 8, forEver).Round(t.Context()), "write %d", at)
		require.Zero(t, v.requireContent("own", bucket.PoolHome), "write %d", at)
		require.NoError(t, os.RemoveAll(copied))
	}
}

func folderAt(t testing.TB, dir string) bucket.Bucket {
	t.Helper()
	cfg := bucket.DefaultConfig()
	cfg.Filesystem.Dir = filepath.Join(dir, "bucket")
	b, err := bucket.New(cfg, dir, quiet, prometheus.NewRegistry())
	require.NoError(t, err)
	return b
}
