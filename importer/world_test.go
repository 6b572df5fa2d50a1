package importer_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/mux"
	"github.com/grafana/dskit/services"
	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/bucket/block"
	"github.com/hearth-metrics/hearth/bucket/buckettest"
	"github.com/hearth-metrics/hearth/importer"
	"github.com/hearth-metrics/hearth/tenant"
)

const hour = int64(time.Hour / time.Millisecond)

var quiet = slog.New(slog.DiscardHandler)

// world is a bucket, an importer into it, and a client of it.
type world struct {
	*testing.T
	bucket bucket.Bucket
	limits tenant.Limits
	url    string
	imp    *importer.Importer
	stop   func()
}

func newWorld(t *testing.T, b bucket.Bucket) *world {
	t.Helper()
	w := &world{T: t, bucket: b, limits: tenant.DefaultLimits()}
	w.limits.BlockUploadEnabled = true
	w.start()
	return w
}

// start starts an importer, as in a process of its own.
func (w *world) start() {
	w.Helper()
	w.imp = importer.New(w.TempDir(), w.bucket, func(tenant.ID) *tenant.Limits { return &w.limits }, quiet, prometheus.NewRegistry())
	require.NoError(w, services.StartAndAwaitRunning(w.Context(), w.imp))
	r := mux.NewRouter()
	r.Use(func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			next.ServeHTTP(rw, r.WithContext(tenant.WithID(r.Context(), tenant.ID(r.Header.Get(tenant.Header)))))
		})
	})
	w.imp.RegisterRoutes(r)
	server := httptest.NewServer(r)
	w.url = server.URL
	stopped := false
	w.stop = func() {
		if !stopped {
			stopped = true
			server.Close()
			require.NoError(w, services.StopAndAwaitTerminated(w.Context(), w.imp))
		}
	}
	imp := w.imp
	w.Cleanup(func() {
		server.Close()
		if !stopped {
			imp.StopAsync()
			_ = imp.AwaitTerminated(context.Background())
		}
	})
}

func openFolder(t testing.TB) bucket.Bucket {
	t.Helper()
	b, err := bucket.New(bucket.DefaultConfig(), t.TempDir(), quiet, prometheus.NewRegistry())
	require.NoError(t, err)
	return b
}

func openS3(t testing.TB, endpoint string) bucket.Bucket {
	t.Helper()
	b, err := bucket.New(bucket.Config{Type: bucket.TypeS3, S3: bucket.S3Config{
		Endpoint: endpoint, Bucket: buckettest.Bucket, Region: "us-east-1", Insecure: true, Prefix: t.Name(),
		AccessKeyID: buckettest.AccessKeyID, SecretAccessKey: buckettest.SecretAccessKey,
	}}, t.TempDir(), quiet, prometheus.NewRegistry())
	require.NoError(t, err)
	t.Cleanup(func() { _ = b.(io.Closer).Close() })
	return b
}

type sample struct {
	t int64
	f float64
}

// makeBlock writes a block of some series from a time on, with more labels.
func makeBlock(t testing.TB, from int64, more ...string) (dir string, meta *bucket.Meta) {
	t.Helper()
	var in []storage.Series
	for i := range 5 {
		var samples []chunks.Sample
		for k := range int64(60) {
			samples = append(samples, point{sample{from + k*60_000, float64(i)}})
		}
		ls := labels.FromStrings(append([]string{"__name__", "up", "host", fmt.Sprint(i)}, more...)...)
		in = append(in, storage.NewListSeries(ls, samples))
	}
	dir, err := tsdb.CreateBlock(in, t.TempDir(), 24*hour, quiet)
	require.NoError(t, err)
	return dir, metaOf(t, dir)
}

// metaOf is the meta.json of a block, with its files, as mimirtool sends it.
func metaOf(t testing.TB, dir string) *bucket.Meta {
	t.Helper()
	meta, err := block.ReadMeta(dir)
	require.NoError(t, err)
	meta.Thanos.Version, meta.Thanos.Files = 1, nil
	for _, path := range []string{"chunks/000001", "index"} {
		info, err := os.Stat(filepath.Join(dir, path))
		require.NoError(t, err)
		meta.Thanos.Files = append(meta.Thanos.Files, bucket.File{RelPath: path, SizeBytes: info.Size()})
	}
	meta.Thanos.Files = append(meta.Thanos.Files, bucket.File{RelPath: "meta.json"})
	return meta
}

// ask sends a request and returns the status and the answer.
func (w *world) ask(method, path string, body []byte) (int, string) {
	w.Helper()
	req, err := http.NewRequestWithContext(w.Context(), method, w.url+"/api/v1/upload/block/"+path, bytes.NewReader(body))
	require.NoError(w, err)
	req.Header.Set(tenant.Header, "acme")
	res, err := http.DefaultClient.Do(req)
	require.NoError(w, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(w, err)
	return res.StatusCode, strings.TrimSpace(string(text))
}

func (w *world) announce(meta *bucket.Meta) (int, string) {
	w.Helper()
	content, err := json.Marshal(meta)
	require.NoError(w, err)
	return w.ask(http.MethodPost, meta.ULID.String()+"/start", content)
}

func (w *world) send(dir string, meta *bucket.Meta, path string) (int, string) {
	w.Helper()
	content, err := os.ReadFile(filepath.Join(dir, path))
	require.NoError(w, err)
	return w.ask(http.MethodPost, meta.ULID.String()+"/files?path="+path, content)
}

// upload sends all of a block and waits for the verdict.
func (w *world) upload(dir string, meta *bucket.Meta) (result, failure string) {
	w.Helper()
	w.must(w.announce(meta))
	for _, f := range meta.Thanos.Files[:2] {
		w.must(w.send(dir, meta, f.RelPath))
	}
	w.must(w.ask(http.MethodPost, meta.ULID.String()+"/finish", nil))
	return w.await(meta)
}

func (w *world) must(status int, text string) {
	w.Helper()
	require.Equal(w, http.StatusOK, status, text)
}

func (w *world) check(meta *bucket.Meta) (result, failure string) {
	w.Helper()
	status, text := w.ask(http.MethodGet, meta.ULID.String()+"/check", nil)
	require.Equal(w, http.StatusOK, status, text)
	var got struct{ Result, Error string }
	require.NoError(w, json.Unmarshal([]byte(text), &got))
	return got.Result, got.Error
}

func (w *world) await(meta *bucket.Meta) (result, failure string) {
	w.Helper()
	require.Eventually(w, func() bool {
		result, failure = w.check(meta)
		return result != "validating"
	}, time.Minute, 10*time.Millisecond)
	return result, failure
}

// listed is what the home's index has of a block.
func (w *world) listed(id ulid.ULID) *bucket.IndexBlock {
	w.Helper()
	x, _, err := bucket.ReadIndex(w.Context(), w.bucket, "acme")
	require.NoError(w, err)
	return x.Block(id)
}

// objects are those of a block, by path.
func (w *world) objects(id ulid.ULID) (paths []string) {
	w.Helper()
	folder := bucket.BlockKey("acme", id).Folder()
	for obj, err := range w.bucket.List(w.Context(), folder, true) {
		require.NoError(w, err)
		paths = append(paths, strings.TrimPrefix(string(obj.Key), string(folder)))
	}
	return paths
}

// recent is a time some hours ago at which a block may begin.
func recent(hours int64) int64 {
	now := time.Now().UnixMilli()
	return now - now%(2*hour) - hours*hour
}

func days(n int) model.Duration { return model.Duration(time.Duration(n) * 24 * time.Hour) }

var errAway = errors.New("the bucket is away")
