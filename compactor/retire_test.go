package compactor_test

import (
	"context"
	"encoding/json"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gorilla/mux"
	"github.com/oklog/ulid/v2"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/compactor"
	"github.com/hearth-metrics/hearth/tenant"
)

// only is a series with one sample.
func only(id tenant.ID, t int64) []series {
	return []series{{id, labels.FromStrings("__name__", "m"), []chunks.Sample{sample{t: t, f: 1}}}}
}

// have says which of the written tenants' samples are there.
func (w *world) have(homes ...bucket.Key) map[string]int {
	w.Helper()
	got, _ := w.readAll(homes...)
	out := map[string]int{}
	for key, samples := range got {
		out[strings.TrimSuffix(key, `{__name__="m"}`)] = len(samples)
	}
	return out
}

// objects counts what is stored below a home, without its index and markers.
func (w *world) objects(prefix bucket.Key) (n int) {
	w.Helper()
	for obj, err := range w.bucket.List(w.Context(), prefix.Folder(), true) {
		require.NoError(w, err)
		if obj.Key != bucket.IndexKey(prefix) {
			n++
		}
	}
	return n
}

func TestRetention(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.upload("own", only("own", dayStart(10)))
	w.upload("own", only("own", dayStart(4)))
	w.upload(bucket.PoolHome, append(only("short", dayStart(10)), only("long", dayStart(10))...))
	w.upload(bucket.PoolHome, only("short", dayStart(11)))
	w.upload(bucket.PoolHome, append(only("short", dayStart(4)), only("long", dayStart(4))...))
	limits := func(id tenant.ID) *tenant.Limits {
		if id == "long" {
			return &tenant.Limits{Retention: model.Duration(100 * 24 * time.Hour)}
		}
		return &tenant.Limits{Retention: model.Duration(7 * 24 * time.Hour)}
	}
	c := w.compactor(w.bucket, 0, limits)
	require.NoError(t, c.Round(t.Context()))
	require.Equal(t, map[string]int{"own": 1, "short": 1, "long": 2}, w.have("own", bucket.PoolHome))

	require.NoError(t, bucket.NoteDue(t.Context(), w.bucket, "own", time.Now(), "again"))
	require.NoError(t, c.Round(t.Context()))
	for _, home := range []bucket.Key{"own", bucket.PoolHome} {
		x, _, err := bucket.ReadIndex(t.Context(), w.bucket, home)
		require.NoError(t, err)
		require.Empty(t, x.BlockDeletionMarks, "%s: what was marked is deleted", home)
	}
	require.Equal(t, map[string]int{"own": 1, "short": 1, "long": 2}, w.have("own", bucket.PoolHome))
}

// TestDeletionWaits: a reader with an old list still finds its blocks.
func TestDeletionWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	old := w.upload("own", only("own", dayStart(3)))
	w.upload("own", only("own", dayStart(3)+1))
	cfg := settings()
	cfg.DeletionDelay = model.Duration(time.Hour)
	c := w.configured(cfg, w.bucket, 0, forEver)
	for range 2 {
		require.NoError(t, c.Round(t.Context()))
		require.NoError(t, bucket.NoteDue(t.Context(), w.bucket, "own", time.Now(), ulid.Make().String()))
	}
	x, _, err := bucket.ReadIndex(t.Context(), w.bucket, "own")
	require.NoError(t, err)
	require.True(t, x.Marked(old))
	require.NoError(t, w.fetch("own", old).Close())

	// Others' tools find the mark in both places.
	for _, key := range []bucket.Key{bucket.BlockKey("own", old, bucket.DeletionMarkFile), bucket.MarkerKey("own", old, bucket.DeletionMarkFile)} {
		content, _, err := bucket.ReadAll(t.Context(), w.bucket, key)
		require.NoError(t, err)
		var mark struct {
			ID           ulid.ULID `json:"id"`
			Version      int       `json:"version"`
			DeletionTime int64     `json:"deletion_time"`
		}
		require.NoError(t, json.Unmarshal(content, &mark))
		require.Equal(t, old, mark.ID)
		require.Equal(t, 1, mark.Version)
		require.WithinDuration(t, time.Now(), time.Unix(mark.DeletionTime, 0), time.Minute)
	}
}

// TestForeignMark: a block that another system marked is left out and deleted.
func TestForeignMark(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	id := w.upload("own", only("own", dayStart(3)))
	w.upload("own", only("own", dayStart(5)))
	require.NoError(t, bucket.WriteDeletionMark(t.Context(), w.bucket, "own", id, "by hand", time.Now().Add(-time.Hour)))
	require.NoError(t, w.compactor(w.bucket, 0, forEver).Round(t.Context()))
	require.Equal(t, map[string]int{"own": 1}, w.have("own"))
	x, _, err := bucket.ReadIndex(t.Context(), w.bucket, "own")
	require.NoError(t, err)
	require.Nil(t, x.Block(id))
}

func TestDeleteTenant(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.upload("gone", only("gone", dayStart(3)))
	w.upload("stays", only("stays", dayStart(3)))
	w.upload(bucket.PoolHome, append(only("gone", dayStart(3)), only("stays", dayStart(3)+5)...))
	w.upload(bucket.PoolHome, only("gone", dayStart(4)))
	c := w.compactor(w.bucket, 0, forEver)
	routes := mux.NewRouter()
	c.RegisterRoutes(routes)
	ask := func(method, path string) string {
		r := httptest.NewRequest(method, path, nil)
		r = r.WithContext(tenant.WithID(t.Context(), "gone"))
		out := httptest.NewRecorder()
		routes.ServeHTTP(out, r)
		require.Equal(t, http.StatusOK, out.Code, out.Body)
		return out.Body.String()
	}
	require.JSONEq(t, `{"tenant_id":"gone","blocks_deleted":false}`, ask(http.MethodGet, "/compactor/delete_tenant_status"))
	require.Empty(t, ask(http.MethodPost, "/compactor/delete_tenant"))
	require.Empty(t, ask(http.MethodPost, "/purger/delete_tenant"), "twice is once")
	require.NoError(t, c.Round(t.Context()))
	require.Equal(t, map[string]int{"stays": 2}, w.have("gone", "stays", bucket.PoolHome))
	require.Zero(t, w.objects("gone"))

	require.NoError(t, c.Round(t.Context())) // deletes the replaced pooled blocks
	var status struct {
		ID   string `json:"tenant_id"`
		Done bool   `json:"blocks_deleted"`
		Left *int   `json:"blocks_left"`
	}
	require.NoError(t, json.Unmarshal([]byte(ask(http.MethodGet, "/purger/delete_tenant_status")), &status))
	require.Equal(t, "gone", status.ID)
	require.True(t, status.Done)
	require.Zero(t, *status.Left)

	// What an ingester still had goes too.
	w.upload(bucket.PoolHome, append(only("gone", dayStart(5)), only("stays", dayStart(5))...))
	require.NoError(t, c.Round(t.Context()))
	require.Equal(t, map[string]int{"stays": 3}, w.have("gone", "stays", bucket.PoolHome))
}

// doomed is a registry with tenants that are to go.
type doomed struct {
	since   map[tenant.ID]time.Time
	removed []tenant.ID
}

func (d *doomed) Doomed() map[tenant.ID]time.Time { return d.since }

func (d *doomed) Removed(_ context.Context, id tenant.ID) error {
	d.removed = append(d.removed, id)
	return nil
}

// TestDoomedTenant: the registry is told once all data is gone, and not because
// an earlier tenant of that name was deleted.
func TestDoomedTenant(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.upload("gone", only("gone", dayStart(3)))
	ago := func(d time.Duration) string { return time.Now().Add(-d).Format(time.RFC3339) }
	folder := bucket.OwnHome + "/compactor"
	put(t, w.bucket, folder+"/deleted/gone", `{"requested":"`+ago(200*time.Hour)+`","finished":"`+ago(170*time.Hour)+`"}`)
	c, registry := w.compactor(w.bucket, 0, forEver), &doomed{since: map[tenant.ID]time.Time{"gone": time.Now().Add(-72 * time.Hour)}}
	c.DeleteFor(registry)
	require.NoError(t, c.Round(t.Context()))
	require.Empty(t, w.have("gone"))
	require.Empty(t, registry.removed, "ingesters may still ship something")

	put(t, w.bucket, folder+"/deleting/gone", `{"requested":"`+ago(48*time.Hour)+`"}`) // a day later
	require.NoError(t, c.Round(t.Context()))
	require.NoError(t, c.Round(t.Context()))
	require.Equal(t, []tenant.ID{"gone"}, registry.removed)
}

// TestForeignTenantDeletion: Cortex and Mimir say it with an object in the home.
func TestForeignTenantDeletion(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.upload("gone", only("gone", dayStart(3)))
	put(t, w.bucket, bucket.TenantDeletionKey("gone"), `{"deletion_time":1}`)
	c := w.compactor(w.bucket, 0, forEver)
	require.NoError(t, c.Round(t.Context()))
	require.NoError(t, c.Round(t.Context()))
	d, err := compactor.DeletionOf(t.Context(), w.bucket, "gone")
	require.NoError(t, err)
	require.True(t, d.Gone())
	require.Empty(t, w.have("gone"))
}

func put(t testing.TB, b bucket.Bucket, key bucket.Key, content string) {
	t.Helper()
	_, err := b.Put(t.Context(), key, strings.NewReader(content), int64(len(content)), bucket.Condition{})
	require.NoError(t, err)
}

// TestBadBlock: a block that is damaged is marked and left alone, the others
// are merged.
func TestBadBlock(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(b bucket.Bucket, id ulid.ULID){
		"index": func(b bucket.Bucket, id ulid.ULID) {
			content, _, err := bucket.ReadAll(t.Context(), b, bucket.BlockKey("own", id, bucket.IndexFile))
			require.NoError(t, err)
			for i := 20; i < len(content)-60; i++ {
				content[i] ^= 0x55
			}
			put(t, b, bucket.BlockKey("own", id, bucket.IndexFile), string(content))
		},
		"chunks": func(b bucket.Bucket, id ulid.ULID) {
			content, _, err := bucket.ReadAll(t.Context(), b, bucket.ChunkKey("own", id, 1))
			require.NoError(t, err)
			content[len(content)-6] ^= 0x55
			put(t, b, bucket.ChunkKey("own", id, 1), string(content))
		},
		"missing": func(b bucket.Bucket, id ulid.ULID) {
			require.NoError(t, b.Delete(t.Context(), bucket.ChunkKey("own", id, 1)))
		},
		"short": func(b bucket.Bucket, id ulid.ULID) { put(t, b, bucket.ChunkKey("own", id, 1), "x") },
		"meta":  func(b bucket.Bucket, id ulid.ULID) { put(t, b, bucket.BlockKey("own", id, bucket.MetaFile), "{") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, 1)
			bad := w.upload("own", only("own", dayStart(3)))
			spoil(w.bucket, bad)
			w.upload("own", only("own", dayStart(3)+1000))
			w.upload("own", only("own", dayStart(3)+2000))
			require.NoError(t, w.compactor(w.bucket, 0, forEver).Round(t.Context()))
			live := w.live("own")
			require.Len(t, live, 2)
			for _, b := range live {
				if b.ID != bad {
					require.EqualValues(t, 2, b.Samples)
				}
			}
			m, err := bucket.ReadMarkers(t.Context(), w.bucket, "own")
			require.NoError(t, err)
			require.Equal(t, map[ulid.ULID]bool{bad: true}, m.NoCompact)
		})
	}
}

// TestBucketFailureIsNoBadBlock: a bucket that is away marks nothing.
func TestBucketFailureIsNoBadBlock(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.upload("own", only("own", dayStart(3)))
	w.upload("own", only("own", dayStart(3)+1000))
	require.ErrorIs(t, w.compactor(noChunks{w.bucket}, 0, forEver).Round(t.Context()), errDown)
	m, err := bucket.ReadMarkers(t.Context(), w.bucket, "own")
	require.NoError(t, err)
	require.Empty(t, m.NoCompact)
	require.NoError(t, w.compactor(w.bucket, 0, forEver).Round(t.Context()), "its note is still there")
	require.Len(t, w.live("own"), 1)
}

// noChunks fails to read chunks.
type noChunks struct{ bucket.Bucket }

func (n noChunks) Get(ctx context.Context, key bucket.Key) (io.ReadCloser, bucket.Object, error) {
	if strings.Contains(string(key), "/"+bucket.ChunksDir+"/") {
		return nil, bucket.Object{}, errDown
	}
	return n.Bucket.Get(ctx, key)
}

// TestTwoCompactors work in the same bucket: sharing, and each believing that
// all is its own.
func TestTwoCompactors(t *testing.T) {
	t.Parallel()
	for _, share := range []bool{true, false} {
		w := newWorld(t, 5)
		w.shipSlot("own", []tenant.ID{"own"}, 6, dayStart(3))
		w.shipSlot("own", []tenant.ID{"own"}, 6, dayStart(3)+4*hour)
		w.shipSlot(bucket.PoolHome, []tenant.ID{"a", "b", "c"}, 2, dayStart(3))
		done := make(chan error, 2)
		var all []*compactor.Compactor
		for i := range 2 {
			c := w.compactor(w.bucket, 8, forEver)
			if share {
				c.ShareWork(func(key string) bool { return (len(key)+int(key[len(key)-1]))%2 == i })
			}
			all = append(all, c)
		}
		for range 4 { // the merges of what the other has split, and so on
			for _, c := range all {
				go func() { done <- c.Round(t.Context()) }()
			}
			for range all {
				require.NoError(t, <-done)
			}
			w.requireContent("own", bucket.PoolHome)
		}
		require.Zero(t, w.requireContent("own", bucket.PoolHome), "shared: %t", share)
	}
}

// counted counts operations.
type counted struct {
	bucket.Bucket
	n atomic.Int64
}

func (c *counted) Get(ctx context.Context, key bucket.Key) (io.ReadCloser, bucket.Object, error) {
	c.n.Add(1)
	return c.Bucket.Get(ctx, key)
}

func (c *counted) Put(ctx context.Context, key bucket.Key, r io.ReadSeeker, size int64, cond bucket.Condition) (string, error) {
	c.n.Add(1)
	return c.Bucket.Put(ctx, key, r, size, cond)
}

func (c *counted) Stat(ctx context.Context, key bucket.Key) (bucket.Object, error) {
	c.n.Add(1)
	return c.Bucket.Stat(ctx, key)
}

func (c *counted) List(ctx context.Context, prefix bucket.Key, recursive bool) iter.Seq2[bucket.Object, error] {
	c.n.Add(1)
	return c.Bucket.List(ctx, prefix, recursive)
}

func (c *counted) Delete(ctx context.Context, key bucket.Key) error {
	c.n.Add(1)
	return c.Bucket.Delete(ctx, key)
}

// TestIdleTenantsCostNothing: a round where nothing is due asks the same few
// questions however many homes there are.
func TestIdleTenantsCostNothing(t *testing.T) {
	t.Parallel()
	rounds := map[int]int64{}
	for _, tenants := range []int{1, 20} {
		w := newWorld(t, 1)
		for i := range tenants {
			id := tenant.ID("t" + string(rune('a'+i)))
			w.upload(bucket.Key(id), only(id, dayStart(3)))
		}
		count := &counted{Bucket: w.bucket}
		c := w.compactor(count, 0, forEver)
		for range 3 {
			require.NoError(t, c.Round(t.Context()))
		}
		before := count.n.Load()
		require.NoError(t, c.Round(t.Context()))
		rounds[tenants] = count.n.Load() - before
	}
	require.Equal(t, rounds[1], rounds[20])
	t.Logf("%d requests a round", rounds[1])
	require.LessOrEqual(t, rounds[1], int64(6))
}

// TestForeignHome: blocks that another system wrote, without an index of ours
// or after it, are found and merged.
func TestForeignHome(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.upload("moved", only("moved", dayStart(30)))
	w.upload("moved", only("moved", dayStart(30)+1))
	require.NoError(t, w.bucket.Delete(t.Context(), bucket.IndexKey("moved")))
	due, err := bucket.ListDue(t.Context(), w.bucket, time.Now())
	require.NoError(t, err)
	for _, note := range due["moved"] {
		require.NoError(t, w.bucket.Delete(t.Context(), note))
	}
	c := w.compactor(w.bucket, 0, forEver)
	require.NoError(t, c.Round(t.Context())) // finds it
	require.NoError(t, c.Round(t.Context()))
	require.Len(t, w.live("moved"), 1)
	require.Equal(t, map[string]int{"moved": 2}, w.have("moved"))
}
