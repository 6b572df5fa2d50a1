package compactor_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
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

// dying is a bucket for a process that dies at its n-th operation, before or
// after the operation's effect: from then on nothing reaches the bucket.
type dying struct {
	bucket.Bucket
	at    int64
	after bool
	n     atomic.Int64
}

func (d *dying) op(f func() error) error {
	n := d.n.Add(1)
	if n > d.at || (n == d.at && !d.after) {
		return errDown
	}
	err := f()
	if n == d.at {
		return errDown
	}
	return err
}

func (d *dying) Get(ctx context.Context, key bucket.Key) (rc io.ReadCloser, obj bucket.Object, err error) {
	err = d.op(func() (err error) {
		rc, obj, err = d.Bucket.Get(ctx, key)
		return err
	})
	if err != nil && rc != nil {
		_ = rc.Close()
	}
	return rc, obj, err
}

func (d *dying) Put(ctx context.Context, key bucket.Key, r io.ReadSeeker, size int64, cond bucket.Condition) (etag string, err error) {
	err = d.op(func() (err error) {
		etag, err = d.Bucket.Put(ctx, key, r, size, cond)
		return err
	})
	return etag, err
}

func (d *dying) Stat(ctx context.Context, key bucket.Key) (obj bucket.Object, err error) {
	err = d.op(func() (err error) {
		obj, err = d.Bucket.Stat(ctx, key)
		return err
	})
	return obj, err
}

func (d *dying) Delete(ctx context.Context, key bucket.Key) error {
	return d.op(func() error { return d.Bucket.Delete(ctx, key) })
}

func (d *dying) List(ctx context.Context, prefix bucket.Key, recursive bool) iter.Seq2[bucket.Object, error] {
	return func(yield func(bucket.Object, error) bool) {
		if err := d.op(func() error { return nil }); err != nil {
			yield(bucket.Object{}, err)
			return
		}
		d.Bucket.List(ctx, prefix, recursive)(yield)
	}
}

// TestCrashAtEachOperation has a compactor die at each of its operations on the
// bucket. Readers see every sample right after it, the next compactor ends the
// work, and then each sample is there once.
func TestCrashAtEachOperation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 11)
	dir := t.TempDir()
	w.bucket = folderAt(t, dir)
	from := dayStart(3)
	w.shipSlot("own", []tenant.ID{"own"}, 3, from)
	w.shipSlot(bucket.PoolHome, []tenant.ID{"a", "b", "c"}, 2, from)

	step := int64(1)
	if testing.Short() {
		step = 9
	}
	for _, after := range []bool{false, true} {
		for at := int64(1); ; at += step {
			copied := t.TempDir()
			require.NoError(t, os.CopyFS(copied, os.DirFS(dir)))
			v := &world{TB: t, bucket: folderAt(t, copied), want: w.want}
			d := &dying{Bucket: v.bucket, at: at, after: after}
			err := v.compactor(d, 4, forEver).Round(t.Context())
			if d.n.Load() < at {
				require.NoError(t, err)
				t.Logf("%d operations", at-1)
				break
			}
			what := fmt.Sprintf("operation %d, after it: %t", at, after)
			t.Log(what, err)
			v.requireContent("own", bucket.PoolHome)
			require.NoError(t, v.compactor(v.bucket, 4, forEver).Round(t.Context()), what)
			require.Zero(t, v.requireContent("own", bucket.PoolHome), what)
			require.NoError(t, os.RemoveAll(copied))
		}
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
