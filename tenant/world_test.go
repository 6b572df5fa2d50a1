package tenant

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
)

// world is registries over one bucket, as processes of a cluster are.
type world struct {
	t      testing.TB
	bucket *weakBucket
	cfg    Config
	mode   AuthConfig
	limits LimitsConfig
}

func newWorld(t testing.TB) *world {
	t.Helper()
	cfg := bucket.DefaultConfig()
	b, err := bucket.New(cfg, t.TempDir(), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(t, err)
	return &world{
		t: t, bucket: &weakBucket{Bucket: b}, cfg: Config{Unknown: UnknownCreate, DeleteDelay: model.Duration(time.Hour)},
		mode: AuthConfig{Mode: ModeToken}, limits: LimitsConfig{Defaults: DefaultLimits()},
	}
}

// process starts a registry with a data folder of its own, or the one given.
func (w *world) process(dir ...string) *Registry {
	w.t.Helper()
	r := w.unstarted(dir...)
	require.NoError(w.t, services.StartAndAwaitRunning(context.Background(), r))
	return r
}

func (w *world) unstarted(dir ...string) *Registry {
	w.t.Helper()
	o := Options{Limits: w.limits, Bucket: w.bucket, DataDir: w.t.TempDir()}
	if len(dir) > 0 {
		o.DataDir, o.FirstToken = dir[0], true
	}
	r, err := New(w.cfg, o, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(w.t, err)
	w.t.Cleanup(func() { require.NoError(w.t, services.StopAndAwaitTerminated(context.Background(), r)) })
	return r
}

// weakBucket fails on demand.
type weakBucket struct {
	bucket.Bucket
	away  atomic.Bool  // every request fails
	lost  atomic.Int32 // so many answers to Put are lost, what was put stays
	asked atomic.Int64 // requests so far
}

var errAway = errors.New("the bucket is away")

func (b *weakBucket) Get(ctx context.Context, key bucket.Key) (io.ReadCloser, bucket.Object, error) {
	b.asked.Add(1)
	if b.away.Load() {
		return nil, bucket.Object{}, errAway
	}
	return b.Bucket.Get(ctx, key)
}

func (b *weakBucket) Stat(ctx context.Context, key bucket.Key) (bucket.Object, error) {
	b.asked.Add(1)
	if b.away.Load() {
		return bucket.Object{}, errAway
	}
	return b.Bucket.Stat(ctx, key)
}

// Put behaves as a client of S3 does that sends a request again whose answer
// it did not get: the second one meets the first.
func (b *weakBucket) Put(ctx context.Context, key bucket.Key, r io.ReadSeeker, size int64, cond bucket.Condition) (string, error) {
	b.asked.Add(1)
	if b.away.Load() {
		return "", errAway
	}
	etag, err := b.Bucket.Put(ctx, key, r, size, cond)
	if err == nil && b.lost.Add(-1) >= 0 {
		return "", bucket.ErrPrecondition
	}
	return etag, err
}
