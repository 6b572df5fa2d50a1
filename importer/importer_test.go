package importer_test

import (
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/bucket/block"
	"github.com/hearth-metrics/hearth/bucket/buckettest"
)

// TestUpload sends a block to a folder and to a real S3 server, whose every
// fifth answer goes wrong: nobody sees it before it is verified, then all do.
func TestUpload(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(*testing.T) bucket.Bucket{
		"folder": func(t *testing.T) bucket.Bucket { return openFolder(t) },
		"s3": func(t *testing.T) bucket.Bucket {
			proxy := buckettest.StartProxy(t, testServer.Addr(t))
			n, faults := 0, []buckettest.Fault{buckettest.Refuse, buckettest.LoseAnswer, buckettest.ResetAfter, buckettest.Truncate, buckettest.SlowDown, buckettest.BadGateway}
			proxy.Plan(func(*http.Request) buckettest.Fault {
				if n++; n%5 == 0 {
					return faults[n/5%len(faults)]
				}
				return buckettest.Pass
			})
			return openS3(t, proxy.Addr)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, open(t))
			dir, meta := makeBlock(t, recent(48))
			status, text := w.ask(http.MethodGet, meta.ULID.String()+"/check", nil)
			require.Equal(t, http.StatusNotFound, status, text)

			meta.Compaction.Level, meta.Compaction.Sources, meta.Stats.NumSeries = 4, []ulid.ULID{ulid.Make()}, 77
			meta.Thanos.Labels = map[string]string{bucket.ShardLabel: "1_of_4", "__org_id__": "another"}
			w.must(w.announce(meta))
			require.Nil(t, w.listed(meta.ULID))
			for _, path := range []string{"index", "chunks/000001"} {
				w.must(w.send(dir, meta, path))
				require.Nil(t, w.listed(meta.ULID), "a part of a block is no block")
				require.NotContains(t, w.objects(meta.ULID), bucket.MetaFile)
			}
			result, _ := w.check(meta)
			require.Equal(t, "uploading", result)
			w.must(w.ask(http.MethodPost, meta.ULID.String()+"/finish", nil))
			result, failure := w.await(meta)
			require.Equal(t, "complete", result, failure)

			entry := w.listed(meta.ULID)
			require.NotNil(t, entry)
			require.Equal(t, uint64(5), entry.Series, "counted, not believed")
			require.Equal(t, uint64(300), entry.Samples)
			require.Empty(t, entry.CompactorShardID)
			require.Equal(t, 1, entry.CompactionLevel)
			require.Equal(t, []int64{meta.Thanos.Files[0].SizeBytes}, entry.SegmentSizes)
			require.Eventually(t, func() bool { return len(w.objects(meta.ULID)) == 3 }, time.Minute, 10*time.Millisecond, "its state is taken away")
			due, err := bucket.ListDue(t.Context(), w.bucket, time.Now())
			require.NoError(t, err)
			require.Contains(t, due, "acme", "compactors are told")
			got := filepath.Join(t.TempDir(), "block")
			require.NoError(t, block.Fetch(t.Context(), w.bucket, "acme", meta.ULID, got))
			st, err := block.Verify(t.Context(), got, nil)
			require.NoError(t, err)
			require.Equal(t, uint64(300), st.NumSamples)

			status, text = w.announce(metaOf(t, dir))
			require.Equal(t, http.StatusConflict, status)
			require.Contains(t, text, "err-block-exists")
			status, _ = w.send(dir, meta, "index")
			require.Equal(t, http.StatusConflict, status)
		})
	}
}

// TestCompactedBlocksAreThere: what was uploaded and merged into another block
// is not asked for again.
func TestCompactedBlocksAreThere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openFolder(t))
	dir, merged := makeBlock(t, recent(48))
	was := ulid.Make()
	merged.Compaction.Level, merged.Compaction.Sources = 2, []ulid.ULID{was, ulid.Make()}
	require.NoError(t, block.WriteMeta(dir, merged))
	require.NoError(t, bucket.UploadBlock(t.Context(), w.bucket, "acme", dir))

	_, meta := makeBlock(t, recent(48))
	meta.ULID = was
	status, _ := w.announce(meta)
	require.Equal(t, http.StatusConflict, status)
	meta.ULID = ulid.Make()
	w.must(w.announce(meta))
}

func TestRefusedAtTheStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openFolder(t))
	w.limits.Retention, w.limits.MaxBlockUploadSize = days(30), 1<<20
	for name, tc := range map[string]struct {
		change func(*bucket.Meta)
		status int
		text   string
	}{
		"another block":    {func(m *bucket.Meta) { m.ULID = ulid.Make(); m.Thanos.Source = "path" }, 400, "meta.json is of block"},
		"version":          {func(m *bucket.Meta) { m.Version = 2 }, 400, "format version 2"},
		"times":            {func(m *bucket.Meta) { m.MinTime = m.MaxTime }, 400, "has the times"},
		"before 1970":      {func(m *bucket.Meta) { m.MinTime = -1 }, 400, "has the times"},
		"future":           {func(m *bucket.Meta) { m.MaxTime = recent(-24) }, 400, "in the future"},
		"too old":          {func(m *bucket.Meta) { m.MinTime, m.MaxTime = recent(24*40), recent(24*31) }, 422, "err-block-too-old"},
		"downsampled":      {func(m *bucket.Meta) { m.Thanos.Downsample.Resolution = 300_000 }, 400, "downsampled"},
		"external label":   {func(m *bucket.Meta) { m.Thanos.Labels = map[string]string{"cluster": "eu"} }, 400, `external label "cluster"`},
		"traversal":        {func(m *bucket.Meta) { m.Thanos.Files[0].RelPath = "chunks/../../x" }, 400, "is none of a block"},
		"other file":       {func(m *bucket.Meta) { m.Thanos.Files[2].RelPath = "deletion-mark.json" }, 400, "is none of a block"},
		"no size":          {func(m *bucket.Meta) { m.Thanos.Files[0].SizeBytes = 0 }, 400, "0 bytes"},
		"negative size":    {func(m *bucket.Meta) { m.Thanos.Files[0].SizeBytes = -5 }, 400, "-5 bytes"},
		"twice":            {func(m *bucket.Meta) { m.Thanos.Files[2] = m.Thanos.Files[0] }, 400, "twice"},
		"no index":         {func(m *bucket.Meta) { m.Thanos.Files = m.Thanos.Files[:1] }, 400, "no index"},
		"no chunks":        {func(m *bucket.Meta) { m.Thanos.Files = m.Thanos.Files[1:] }, 400, "no chunks"},
		"no files":         {func(m *bucket.Meta) { m.Thanos.Files = nil }, 400, "no chunks"},
		"a missing number": {func(m *bucket.Meta) { m.Thanos.Files[0].RelPath = "chunks/000002" }, 400, "but not chunks/000001"},
		"too large":        {func(m *bucket.Meta) { m.Thanos.Files[0].SizeBytes = 1 << 20 }, 413, "max_block_upload_size"},
		"sum overflows":    {func(m *bucket.Meta) { m.Thanos.Files[0].SizeBytes, m.Thanos.Files[1].SizeBytes = 1<<62, 1<<62 }, 413, "max_block_upload_size"},
	} {
		_, meta := makeBlock(t, recent(48))
		id := meta.ULID
		tc.change(meta)
		if meta.Thanos.Source != "path" {
			id = meta.ULID
		}
		content, err := jsonOf(meta)
		require.NoError(t, err)
		status, text := w.ask(http.MethodPost, id.String()+"/start", content)
		require.Equal(t, tc.status, status, "%s: %s", name, text)
		require.Contains(t, text, tc.text, name)
		require.Empty(t, w.objects(id), name)
	}
	for path, want := range map[string]string{
		"nonsense/start":                      "not the name of a block",
		strings.ToLower(aName) + "/start":     "not the name of a block",
		aName + "/start":                      "cannot be read",
		aName + "/files?path=index":           "err-block-upload-not-started",
		aName + "/files?path=meta.json":       "want index",
		aName + "/files":                      "want index",
		aName + "/files?path=../acme/x/index": "want index",
		aName + "/finish":                     "err-block-upload-not-started",
	} {
		status, text := w.ask(http.MethodPost, path, nil)
		require.Contains(t, text, want, "%s: %d", path, status)
	}
	status, text := w.ask(http.MethodPost, aName+"/start", []byte(`{"x": "`+strings.Repeat("x", 2<<20)+`"}`))
	require.Equal(t, http.StatusRequestEntityTooLarge, status, text)
	w.limits.BlockUploadEnabled = false
	status, text = w.ask(http.MethodGet, aName+"/check", nil)
	require.Equal(t, http.StatusBadRequest, status)
	require.Contains(t, text, "err-block-upload-disabled")
}

const aName = "01JZZZZZZZZZZZZZZZZZZZZZZZ"

func TestFilesAreAsAnnounced(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openFolder(t))
	dir, meta := makeBlock(t, recent(48))
	w.must(w.announce(meta))
	path := meta.ULID.String() + "/files?path="
	for body, want := range map[string]string{"": "is empty", "short": "5 bytes"} {
		status, text := w.ask(http.MethodPost, path+"index", []byte(body))
		require.Equal(t, http.StatusBadRequest, status)
		require.Contains(t, text, want)
	}
	status, text := w.ask(http.MethodPost, path+"chunks/000002", []byte("x"))
	require.Equal(t, http.StatusBadRequest, status)
	require.Contains(t, text, "does not list")
	// Without a length said before, it is counted.
	for _, n := range []int64{meta.Thanos.Files[1].SizeBytes - 1, meta.Thanos.Files[1].SizeBytes + 1} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+"/api/v1/upload/block/"+path+"index", io.MultiReader(strings.NewReader(strings.Repeat("x", int(n)))))
		require.NoError(t, err)
		req.Header.Set("X-Scope-OrgID", "acme")
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, http.StatusBadRequest, res.StatusCode)
	}
	status, text = w.ask(http.MethodPost, meta.ULID.String()+"/finish", nil)
	require.Equal(t, http.StatusBadRequest, status)
	require.Contains(t, text, "has not been sent")

	// What is there is told, and what is there in another size goes.
	w.must(w.send(dir, meta, "index"))
	_, text = w.announce(metaOf(t, dir))
	require.JSONEq(t, `{"present":["index"]}`, text)
	changed := metaOf(t, dir)
	changed.Thanos.Files[1].SizeBytes++
	_, text = w.announce(changed)
	require.JSONEq(t, `{"present":[]}`, text)
	require.NotContains(t, w.objects(meta.ULID), "index")
}

// TestBadBlocks: what is refused is refused for a reason that its sender can
// read, is seen by nobody, and can be sent again.
func TestBadBlocks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, openFolder(t))
	w.limits.MaxLabelValueLength, w.limits.MaxLabelNamesPerSeries = 100, 6
	for name, tc := range map[string]struct {
		more   []string
		change func(t *testing.T, dir string, m *bucket.Meta)
		want   string
	}{
		"hidden label":   {[]string{bucket.PoolLabel, "other"}, nil, "begins with a zero byte"},
		"long value":     {[]string{"x", strings.Repeat("x", 101)}, nil, "max_label_value_length"},
		"many labels":    {[]string{"a", "1", "b", "2", "c", "3", "d", "4", "e", "5"}, nil, "max_label_names_per_series"},
		"not UTF-8":      {[]string{"x", "\xff"}, nil, "not UTF-8"},
		"shorter":        {nil, func(_ *testing.T, _ string, m *bucket.Meta) { m.MaxTime -= hour / 2 }, "outside of the block"},
		"damaged chunks": {nil, func(t *testing.T, dir string, _ *bucket.Meta) { flip(t, filepath.Join(dir, "chunks", "000001"), 40) }, "checksum"},
		"damaged index":  {nil, func(t *testing.T, dir string, _ *bucket.Meta) { flip(t, filepath.Join(dir, "index"), 60) }, ""},
		"no index":       {nil, func(t *testing.T, dir string, _ *bucket.Meta) { flip(t, filepath.Join(dir, "index"), 0) }, "open"},
	} {
		dir, meta := makeBlock(t, recent(48), tc.more...)
		if tc.change != nil {
			tc.change(t, dir, meta)
		}
		result, failure := w.upload(dir, meta)
		require.Equal(t, "failed", result, name)
		require.Contains(t, failure, tc.want, name)
		require.Nil(t, w.listed(meta.ULID))
		require.NotContains(t, w.objects(meta.ULID), bucket.MetaFile)
		for _, verb := range []string{"finish", "files?path=index"} {
			status, text := w.ask(http.MethodPost, meta.ULID.String()+"/"+verb, []byte("x"))
			require.Equal(t, http.StatusBadRequest, status)
			require.Contains(t, text, "start its upload again", name)
		}
	}
	dir, meta := makeBlock(t, recent(48))
	flip(t, filepath.Join(dir, "chunks", "000001"), 40)
	result, _ := w.upload(dir, meta)
	require.Equal(t, "failed", result)
	flip(t, filepath.Join(dir, "chunks", "000001"), 40) // and back
	result, failure := w.upload(dir, meta)
	require.Equal(t, "complete", result, failure)
}

func flip(t *testing.T, path string, at int) {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	content[at] ^= 1
	require.NoError(t, os.WriteFile(path, content, 0o666))
}

// holding is a bucket in which reads of chunks wait.
type holding struct {
	bucket.Bucket
	reached chan struct{}

	mu   sync.Mutex
	gate chan error // nil: open
}

func (h *holding) Get(ctx context.Context, key bucket.Key) (io.ReadCloser, bucket.Object, error) {
	h.mu.Lock()
	gate := h.gate
	h.mu.Unlock()
	if gate != nil && strings.Contains(string(key), "/chunks/") {
		h.reached <- struct{}{}
		select {
		case err := <-gate:
			if err != nil {
				return nil, bucket.Object{}, err
			}
		case <-ctx.Done():
			return nil, bucket.Object{}, ctx.Err()
		}
	}
	return h.Bucket.Get(ctx, key)
}

// TestValidationIsBehindTheRequest holds validations up: their state is told,
// nothing of the block can be changed meanwhile, too many at once are refused,
// and one that is broken off can be asked for again, of another process too.
func TestValidationIsBehindTheRequest(t *testing.T) {
	t.Parallel()
	h := &holding{Bucket: openFolder(t), reached: make(chan struct{}), gate: make(chan error)}
	w := newWorld(t, h)
	var dirs []string
	var metas []*bucket.Meta
	for i := range 3 {
		dir, meta := makeBlock(t, recent(48))
		dirs, metas = append(dirs, dir), append(metas, meta)
		w.must(w.announce(meta))
		w.must(w.send(dir, meta, "index"))
		w.must(w.send(dir, meta, "chunks/000001"))
		if i < 2 {
			w.must(w.ask(http.MethodPost, meta.ULID.String()+"/finish", nil))
			<-h.reached
		}
	}
	result, _ := w.check(metas[0])
	require.Equal(t, "validating", result)
	w.must(w.ask(http.MethodPost, metas[0].ULID.String()+"/finish", nil)) // it is under way
	for _, try := range []func() (int, string){
		func() (int, string) { return w.announce(metaOf(t, dirs[0])) },
		func() (int, string) { return w.send(dirs[0], metas[0], "index") },
		func() (int, string) { return w.ask(http.MethodPost, metas[2].ULID.String()+"/finish", nil) },
	} {
		status, text := try()
		require.Equal(t, http.StatusTooManyRequests, status, text)
		require.Contains(t, text, "err-block-upload-busy")
	}
	h.gate <- errAway
	require.Eventually(t, func() bool {
		a, _ := w.check(metas[0])
		b, _ := w.check(metas[1])
		return a == "uploading" || b == "uploading"
	}, time.Minute, 10*time.Millisecond, "a bucket that is away is not the block's fault")
	w.stop()
	w.start()
	h.mu.Lock()
	h.gate = nil
	h.mu.Unlock()
	for _, meta := range metas {
		w.must(w.ask(http.MethodPost, meta.ULID.String()+"/finish", nil))
		result, failure := w.await(meta)
		require.Equal(t, "complete", result, failure)
	}
}

// TestFilesThatChangeUnderTheCheck: what is published is what was verified.
func TestFilesThatChangeUnderTheCheck(t *testing.T) {
	t.Parallel()
	h := &holding{Bucket: openFolder(t), reached: make(chan struct{}), gate: make(chan error)}
	w := newWorld(t, h)
	dir, meta := makeBlock(t, recent(48))
	meta.Thanos.Files[0], meta.Thanos.Files[1] = meta.Thanos.Files[1], meta.Thanos.Files[0]
	w.must(w.announce(meta))
	w.must(w.send(dir, meta, "index"))
	w.must(w.send(dir, meta, "chunks/000001"))
	w.must(w.ask(http.MethodPost, meta.ULID.String()+"/finish", nil))
	<-h.reached // it has the index
	key := bucket.BlockKey("acme", meta.ULID, bucket.IndexFile)
	content, _, err := bucket.ReadAll(t.Context(), h.Bucket, key)
	require.NoError(t, err)
	content[len(content)-1] ^= 1
	_, err = h.Put(t.Context(), key, strings.NewReader(string(content)), int64(len(content)), bucket.Condition{})
	require.NoError(t, err)
	h.gate <- nil
	result, _ := w.await(meta)
	require.Equal(t, "uploading", result)
	require.Nil(t, w.listed(meta.ULID))
}
