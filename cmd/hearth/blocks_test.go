package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/app"
	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/bucket/block"
)

const hourMs = int64(time.Hour / time.Millisecond)

type dot struct {
	t int64
	f float64
}

func (d dot) T() int64                      { return d.t }
func (d dot) ST() int64                     { return 0 }
func (d dot) F() float64                    { return d.f }
func (d dot) H() *histogram.Histogram       { return nil }
func (d dot) FH() *histogram.FloatHistogram { return nil }
func (d dot) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (d dot) Copy() chunks.Sample           { return d }

// makeBlock writes a block below dir with a sample of two series each minute,
// whose value is the minute.
func makeBlock(t *testing.T, dir string, from, to int64, external map[string]string, pooled ...string) string {
	t.Helper()
	var in []storage.Series
	if len(pooled) == 0 {
		pooled = []string{""}
	}
	for _, id := range pooled {
		for _, host := range []string{"a", "b"} {
			var samples []chunks.Sample
			for at := from; at < to; at += hourMs / 60 {
				samples = append(samples, dot{at, float64(at / (hourMs / 60))})
			}
			ls := labels.FromStrings("__name__", "old", "host", host)
			if id != "" {
				ls = labels.FromStrings(bucket.PoolLabel, id, "__name__", "old", "host", host+"-of-"+id)
			}
			in = append(in, storage.NewListSeries(ls, samples))
		}
	}
	made, err := tsdb.CreateBlock(in, dir, 60*24*hourMs, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	if external != nil {
		meta, err := block.ReadMeta(made)
		require.NoError(t, err)
		meta.Thanos = bucket.ThanosMeta{Version: 1, Labels: external, Source: "sidecar"}
		require.NoError(t, block.WriteMeta(made, meta))
	}
	return made
}

// site is a Hearth, and the commands on its blocks.
type site struct {
	*testing.T
	cfg app.Config
	app *app.App
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{T: t, cfg: app.DefaultConfig()}
	s.cfg.DataDir = t.TempDir()
	s.cfg.Server.HTTPListenAddress, s.cfg.Server.GRPCListenAddress = "127.0.0.1:0", "127.0.0.1:0"
	s.cfg.Limits.Defaults.BlockUploadEnabled = true
	s.cfg.Querier.RefreshInterval = model.Duration(100 * time.Millisecond) // else most of the test is waiting for it
	a, err := app.New(s.cfg, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.NoError(t, a.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, a.Stop()) })
	s.app = a
	t.Setenv("HEARTH_ADDRESS", "http://"+a.Addr())
	t.Setenv("HEARTH_TOKEN", "")
	t.Setenv("HEARTH_TOKEN_FILE", "")
	return s
}

func (s *site) bucket() bucket.Bucket {
	s.Helper()
	b, err := bucket.New(s.cfg.Bucket, s.cfg.DataDir, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(s, err)
	return b
}

// blocks runs hearth blocks.
func (s *site) blocks(code int, verb string, args ...string) string {
	s.Helper()
	var out, errs bytes.Buffer
	require.Equal(s, code, run(append([]string{"blocks", verb}, args...), &out, &errs), "%s %v: %s%s", verb, args, out.String(), errs.String())
	return out.String() + errs.String()
}

// here are the flags for the bucket of the site.
func (s *site) here(args ...string) []string {
	return append([]string{"-set", "data_dir=" + s.cfg.DataDir}, args...)
}

// count asks how many samples a query selects of a tenant until a time.
func (s *site) count(id, expr string, at int64) string {
	s.Helper()
	req, err := http.NewRequestWithContext(s.Context(), http.MethodGet, fmt.Sprintf("http://%s/prometheus/api/v1/query?time=%d&query=%s", s.app.Addr(), at/1000, url.QueryEscape(expr)), http.NoBody)
	require.NoError(s, err)
	req.Header.Set("X-Scope-OrgID", id)
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	require.NoError(s, err)
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	require.NoError(s, err)
	var got struct {
		Data struct {
			Result []struct{ Value [2]any }
		}
	}
	require.NoError(s, json.Unmarshal(text, &got), "%s", text)
	if len(got.Data.Result) == 0 {
		return "none"
	}
	return fmt.Sprint(got.Data.Result[0].Value[1])
}

// awaitCount waits until the list of blocks that queries go by has caught up.
func (s *site) awaitCount(want, id, expr string, at int64) {
	s.Helper()
	got := ""
	require.Eventually(s, func() bool {
		got = s.count(id, expr, at)
		return got == want
	}, time.Minute, 100*time.Millisecond, "%s of %s, want %s", expr, id, want)
}

// midnight is the beginning of a day some days ago.
func midnight(daysAgo int64) int64 {
	now := time.Now().UnixMilli()
	return now - now%(24*hourMs) - daysAgo*24*hourMs
}

// TestBlocksMoveIn brings a Prometheus' folder in with one command, twice, with
// a long block in it, and one of Thanos'; what is asked is what was there.
func TestBlocksMoveIn(t *testing.T) {
	s := newSite(t)
	dir := t.TempDir()
	makeBlock(t, dir, midnight(5), midnight(5)+2*hourMs, nil)
	makeBlock(t, dir, midnight(4)+18*hourMs, midnight(3)+12*hourMs, nil) // 18 hours, over midnight
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "wal"), 0o777))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, ulid.Make().String()+".tmp-for-creation"), 0o777))

	out := s.blocks(exitOK, "upload", "-tenant", "acme", "-dry-run", dir)
	require.Contains(t, out, "would be done")
	require.Contains(t, out, "would be cut into days")
	require.Equal(t, "none", s.count("acme", "count(old)", midnight(5)+hourMs))
	out = s.blocks(exitOK, "upload", "-tenant", "acme", dir)
	require.Contains(t, out, "blocks: 3 done")
	s.awaitCount("2", "acme", "count(old)", midnight(5)+hourMs)
	s.awaitCount(fmt.Sprint(2*18*60), "acme", "sum(count_over_time(old[24h]))", midnight(3)+12*hourMs)
	require.Equal(t, fmt.Sprint(midnight(3)/60_000-1), s.count("acme", `old{host="a"}`, midnight(3)-1000))
	require.Equal(t, "none", s.count("other", "count(old)", midnight(5)+hourMs))

	out = s.blocks(exitOK, "upload", "-tenant", "acme", dir)
	require.Contains(t, out, "blocks: 3 there already")
	require.Contains(t, s.blocks(exitOK, "upload", "-tenant", "acme", "-dry-run", dir), "1 there already")
	require.Contains(t, s.blocks(exitFailure, "upload", "-tenant", "..", dir), "err-tenant-invalid")
	require.Contains(t, s.blocks(exitUsage, "upload", "-tenant", "acme"), "want folders")
	require.Contains(t, s.blocks(exitFailure, "upload", "-tenant", "acme", t.TempDir()), "there is no block")

	thanos := t.TempDir()
	makeBlock(t, thanos, midnight(9), midnight(9)+2*hourMs, map[string]string{"cluster": "eu", "replica": "0"})
	require.Contains(t, s.blocks(exitFailure, "upload", "-tenant", "acme", thanos), "-external-labels")
	out = s.blocks(exitOK, "upload", "-tenant", "acme", "-external-labels", "add", "-o", "json", thanos)
	var line moved
	require.NoError(t, json.Unmarshal([]byte(out), &line))
	require.Equal(t, resultMoved, line.Result)
	s.awaitCount("2", "acme", `count(old{cluster="eu",replica="0"})`, midnight(9)+hourMs)

	out = s.blocks(exitOK, "list", s.here("-tenant", "acme")...)
	require.Equal(t, 5, strings.Count(out, "\n"), out)
	out = s.blocks(exitOK, "verify", s.here("-tenant", "acme")...)
	require.Equal(t, 4, strings.Count(out, "sound"), out)
	require.Contains(t, s.blocks(exitOK, "verify", dir, thanos), "sound")
}

// TestBadBlocksDoNotMoveIn: one is refused, the others come, and the exit code
// says so.
func TestBadBlocksDoNotMoveIn(t *testing.T) {
	s := newSite(t)
	dir := t.TempDir()
	makeBlock(t, dir, midnight(5), midnight(5)+2*hourMs, nil)
	bad := makeBlock(t, dir, midnight(6), midnight(6)+2*hourMs, nil)
	segment := filepath.Join(bad, "chunks", "000001")
	content, err := os.ReadFile(segment)
	require.NoError(t, err)
	content[50] ^= 1
	require.NoError(t, os.WriteFile(segment, content, 0o666))
	down := makeBlock(t, dir, midnight(7), midnight(7)+2*hourMs, map[string]string{})
	meta, err := block.ReadMeta(down)
	require.NoError(t, err)
	meta.Thanos.Downsample.Resolution = 300_000
	require.NoError(t, block.WriteMeta(down, meta))

	out := s.blocks(exitFailure, "upload", "-tenant", "acme", dir)
	require.Contains(t, out, "checksum")
	require.Contains(t, out, "downsampled to 5m0s")
	require.Contains(t, out, "blocks: 2 FAILED, 1 done")
	s.awaitCount("2", "acme", "count(old)", midnight(5)+hourMs)
	require.Equal(t, "none", s.count("acme", "count(old)", midnight(6)+hourMs))
	out = s.blocks(exitFailure, "verify", dir)
	require.Contains(t, out, "1 of 3 blocks are damaged")
}

// uploadPooled puts a block into the pool.
func (s *site) uploadPooled(from int64, tenants ...string) string {
	s.Helper()
	dir := makeBlock(s.T, s.TempDir(), from, from+2*hourMs, nil, tenants...)
	b, err := tsdb.OpenBlock(nil, dir, nil, nil)
	require.NoError(s, err)
	sizes, err := bucket.TenantSizes(s.Context(), b)
	require.NoError(s, err)
	require.NoError(s, b.Close())
	content, err := json.Marshal(sizes)
	require.NoError(s, err)
	require.NoError(s, os.WriteFile(filepath.Join(dir, bucket.TenantsFile), content, 0o666))
	require.NoError(s, bucket.UploadBlock(s.Context(), s.bucket(), bucket.PoolHome, dir))
	return filepath.Base(dir)
}

// TestPooledTenantMovesOut exports a tenant that has a block of its own, and
// shares another: out come plain blocks with its series alone.
func TestPooledTenantMovesOut(t *testing.T) {
	s := newSite(t)
	pooled := s.uploadPooled(midnight(3), "acme", "other")
	s.uploadPooled(midnight(3), "other", "third")
	dir := t.TempDir()
	own := makeBlock(t, dir, midnight(4), midnight(4)+2*hourMs, nil)
	s.blocks(exitOK, "upload", "-tenant", "acme", dir)
	s.awaitCount("4", "acme", "count(count_over_time(old[3d]))", midnight(3)+hourMs) // from both

	out := s.blocks(exitOK, "list", s.here("-tenant", "acme", "-o", "json")...)
	var rows []blockRow
	require.NoError(t, json.Unmarshal([]byte(out), &rows))
	require.Len(t, rows, 2)
	require.Equal(t, []string{"acme", "pool"}, []string{rows[0].Home, rows[1].Home})
	require.Equal(t, pooled, rows[1].Block)

	to := t.TempDir()
	require.Contains(t, s.blocks(exitOK, "export", s.here("-tenant", "acme", "-out", to)...), "2 done")
	require.Contains(t, s.blocks(exitOK, "export", s.here("-tenant", "acme", "-out", to)...), "2 there already")
	found, err := filepath.Glob(filepath.Join(to, "*"))
	require.NoError(t, err)
	require.Len(t, found, 2)
	series := map[string]bool{}
	for _, dir := range found {
		_, err := block.Verify(t.Context(), dir, func(ls labels.Labels) error {
			series[ls.String()] = true
			return nil
		})
		require.NoError(t, err)
	}
	require.Equal(t, map[string]bool{
		`{__name__="old", host="a"}`: true, `{__name__="old", host="b"}`: true,
		`{__name__="old", host="a-of-acme"}`: true, `{__name__="old", host="b-of-acme"}`: true,
	}, series)
	require.FileExists(t, filepath.Join(to, filepath.Base(own), "index"))

	// The same to another tenant.
	require.Contains(t, s.blocks(exitOK, "copy", s.here("-tenant", "acme", "-to-tenant", "copy", "-dry-run")...), "2 would be done")
	require.Contains(t, s.blocks(exitOK, "copy", s.here("-tenant", "acme", "-to-tenant", "copy")...), "2 done")
	require.Contains(t, s.blocks(exitOK, "copy", s.here("-tenant", "acme", "-to-tenant", "copy")...), "2 there already")
	s.awaitCount("4", "copy", "count(count_over_time(old[3d]))", midnight(3)+hourMs)
	require.Contains(t, s.blocks(exitUsage, "copy", s.here("-tenant", "acme")...), "that is where they are")
}

// TestVerifyThePool: a pooled block has a list of its tenants and their bytes,
// which is held against it.
func TestVerifyThePool(t *testing.T) {
	s := newSite(t)
	id := ulid.MustParse(s.uploadPooled(midnight(3), "acme", "other"))
	require.Contains(t, s.blocks(exitOK, "verify", s.here("-pool")...), "sound")
	for list, want := range map[string]string{
		`["acme","other"]`:     "sound", // as it once was
		`["acme"]`:             `the tenant "other", which tenants.json does not list`,
		`{"acme":7,"other":0}`: `says that the tenant "acme" has 7 bytes of it, which has`,
	} {
		key := bucket.BlockKey(bucket.PoolHome, id, bucket.TenantsFile)
		_, err := s.bucket().Put(t.Context(), key, strings.NewReader(list), int64(len(list)), bucket.Condition{})
		require.NoError(t, err)
		code := exitOK
		if want != "sound" {
			code = exitFailure
		}
		require.Contains(t, s.blocks(code, "verify", s.here("-pool")...), want)
	}
}

// TestThanosBucket copies the blocks at the root of another bucket, which is
// left as it is.
func TestThanosBucket(t *testing.T) {
	s := newSite(t)
	other := t.TempDir()
	root := filepath.Join(other, "bucket")
	for i, replica := range []string{"0", "1"} {
		made := makeBlock(t, t.TempDir(), midnight(6)+int64(i), midnight(6)+2*hourMs, map[string]string{"cluster": "eu", "replica": replica})
		require.NoError(t, os.CopyFS(filepath.Join(root, filepath.Base(made)), os.DirFS(made)))
	}
	gone := makeBlock(t, t.TempDir(), midnight(7), midnight(7)+2*hourMs, map[string]string{"cluster": "eu"})
	require.NoError(t, os.CopyFS(filepath.Join(root, filepath.Base(gone)), os.DirFS(gone)))
	require.NoError(t, os.WriteFile(filepath.Join(root, filepath.Base(gone), "deletion-mark.json"), []byte(`{"id":"`+filepath.Base(gone)+`","version":1,"deletion_time":1}`), 0o666))
	before := tree(t, root)
	flags := []string{"-set", "data_dir=" + other, "-root"}

	out := s.blocks(exitOK, "list", flags...)
	require.Equal(t, 4, strings.Count(out, "\n"), out)
	require.Contains(t, out, "deletion")
	to := append(flags, "-to-set", "data_dir="+s.cfg.DataDir, "-to-tenant", "acme")
	require.Contains(t, s.blocks(exitFailure, "copy", to...), "-external-labels")
	require.Contains(t, s.blocks(exitOK, "copy", append(to, "-external-labels", "add")...), "2 done")
	s.awaitCount("2", "acme", `count(old{replica="1",cluster="eu"})`, midnight(6)+hourMs)
	require.Equal(t, "4", s.count("acme", `count(old)`, midnight(6)+hourMs))
	require.Contains(t, s.blocks(exitOK, "copy", append(to, "-external-labels", "drop", "-to-tenant", "flat")...), "2 done")
	s.awaitCount("2", "flat", `count(old{replica="",cluster=""})`, midnight(6)+hourMs)
	require.Equal(t, before, tree(t, root), "it is only read")
}

func tree(t *testing.T, root string) (paths []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.Contains(path, ".~hearth") {
			paths = append(paths, path)
		}
		return err
	}))
	return paths
}

func TestMarksByHand(t *testing.T) {
	s := newSite(t)
	dir := t.TempDir()
	one := filepath.Base(makeBlock(t, dir, midnight(5), midnight(5)+2*hourMs, nil))
	two := filepath.Base(makeBlock(t, dir, midnight(6), midnight(6)+2*hourMs, nil))
	pooled := s.uploadPooled(midnight(3), "acme", "other")
	s.blocks(exitOK, "upload", "-tenant", "acme", dir)
	s.awaitCount("2", "acme", "count(old)", midnight(6)+hourMs)
	s.blocks(exitOK, "mark", s.here("-tenant", "acme", "-as", "no-compact", one, pooled)...)
	s.blocks(exitOK, "mark", s.here("-tenant", "acme", "-as", "deletion", two)...)
	out := s.blocks(exitOK, "list", s.here("-tenant", "acme")...)
	require.Regexp(t, two+`.* deletion\n`, out)
	require.Regexp(t, one+`.* no-compact\n`, out)
	require.Regexp(t, pooled+`.* no-compact\n`, out)
	s.awaitCount("none", "acme", "count(old)", midnight(6)+hourMs)
	require.Contains(t, s.blocks(exitFailure, "mark", s.here("-tenant", "acme", "-as", "deletion", pooled)...), "other tenants")
	require.Contains(t, s.blocks(exitFailure, "mark", s.here("-tenant", "acme", "-as", "deletion", ulid.Make().String())...), "not there")
	require.Contains(t, s.blocks(exitUsage, "mark", s.here("-tenant", "acme", "-as", "lost", one)...), "-as deletion")
	require.Contains(t, s.blocks(exitUsage, "list", s.here()...), "one of -tenant")
}
