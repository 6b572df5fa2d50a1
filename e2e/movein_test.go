//go:build e2e

package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
)

// runTool runs a program and returns what it prints. It must end well.
func runTool(t testing.TB, path string, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	require.NoError(t, cmd.Run(), "%s %v: %s%s", path, args, out.String(), errs.String())
	return out.String()
}

// dump is all samples below a folder of blocks, as promtool prints them.
func dump(t testing.TB, dir string) []string {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "wal"), 0o777)) // it asks for one
	lines := strings.Split(strings.TrimSpace(runTool(t, realTool(t, "promtool"), "tsdb", "dump", dir)), "\n")
	slices.Sort(lines)
	return lines
}

// openMetrics is a day and a half of three counters, a gauge that comes and
// goes, and an end.
func openMetrics(from time.Time) string {
	var b strings.Builder
	for _, host := range []string{"a", "b", "c"} {
		for i := range 36 * 12 {
			at := from.Unix() + int64(i)*300
			fmt.Fprintf(&b, "requests_total{host=%q} %d %d\n", host, i*len(host)+i%7, at)
		}
	}
	for i := range 36 * 12 {
		if i%50 < 40 {
			fmt.Fprintf(&b, "depth{queue=\"\\\"odd\\\" näme\"} %d.5 %d\n", i%13, from.Unix()+int64(i)*300)
		}
	}
	return "# TYPE requests counter\n" + strings.Replace(b.String(), "depth{", "# TYPE depth gauge\ndepth{", 1) + "# EOF\n"
}

// TestMoveInFromPromtool: blocks that promtool has written come in with one
// command, are asked as a Prometheus is that has them, merged by the compactor,
// and go out to promtool again, with what was written into the pool.
func TestMoveInFromPromtool(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	from := time.Now().UTC().Truncate(24 * time.Hour).Add(-4 * 24 * time.Hour)
	text := filepath.Join(dir, "history.txt")
	require.NoError(t, os.WriteFile(text, []byte(openMetrics(from)), 0o666))
	blocks := filepath.Join(dir, "blocks")
	runTool(t, realTool(t, "promtool"), "tsdb", "create-blocks-from", "openmetrics", text, blocks)
	want := dump(t, blocks)
	require.Greater(t, len(want), 1500)

	h := startHearth(t, "limits.defaults.block_upload_enabled=true", "querier.refresh_interval=1s", "compactor.interval=1s")
	upload := []string{"blocks", "upload", "-address", h.url, "-tenant", "moved", blocks}
	require.Contains(t, runTool(t, program(t), upload...), " done\n")
	require.NotContains(t, runTool(t, program(t), upload...), " done\n", "they are there already, merged or not")

	reference := t.TempDir()
	require.NoError(t, os.CopyFS(filepath.Join(reference, "data"), os.DirFS(blocks)))
	p := prometheusIn(t, reference, "{}", "--storage.tsdb.retention.time=30d")
	sameAnswers(t, h, "moved", p, from.UnixMilli(), from.Add(37*time.Hour).UnixMilli(),
		`requests_total`, `depth`, `sum by (host) (rate(requests_total[30m]))`, `count({__name__=~".+"})`, `absent(depth)`, `max_over_time(depth[3h])`)

	// The compactor merges them as it merges its own.
	until(t, patience, "the blocks to be merged", func() error {
		list := listBlocks(t, h, "moved")
		if n := len(list); n > 2 {
			return fmt.Errorf("there are %d", n)
		}
		return nil
	})
	require.NotContains(t, runTool(t, program(t), upload...), " done\n", "they are there, merged")

	now := time.Now().UnixMilli()
	h.push(protocols[0], "moved", floats(seriesLabels(t, `recent{of="the pool"}`), now-60_000, 15_000, 1, 2, 3))
	h.flush()
	out := filepath.Join(dir, "out")
	runTool(t, program(t), "blocks", "export", "-set", "data_dir="+h.dir, "-tenant", "moved", "-out", out)
	for i := range 3 {
		want = append(want, fmt.Sprintf(`{__name__="recent", of="the pool"} %d %d`, i+1, now-60_000+int64(i)*15_000))
	}
	slices.Sort(want)
	require.Equal(t, want, dump(t, out))
	require.Contains(t, runTool(t, program(t), "blocks", "verify", out), "sound")
}

// listBlocks are the tenant's blocks that are not marked.
func listBlocks(t testing.TB, h *hearth, tenant string) (names []string) {
	t.Helper()
	var rows []struct {
		Block    string
		Deletion bool `json:"deletion_mark"`
	}
	require.NoError(t, json.Unmarshal([]byte(runTool(t, program(t), "blocks", "list", "-set", "data_dir="+h.dir, "-tenant", tenant, "-o", "json")), &rows))
	for _, r := range rows {
		if !r.Deletion {
			names = append(names, r.Block)
		}
	}
	return names
}

// sameAnswers asks both, until Hearth's list of blocks has caught up.
func sameAnswers(t testing.TB, h *hearth, tenant string, p *realPrometheus, start, end int64, exprs ...string) {
	t.Helper()
	for _, expr := range exprs {
		want := p.over("", expr, start, end, (end-start)/200).text()
		require.NotEmpty(t, want, expr)
		until(t, patience, "the same answer to "+expr, func() error {
			if got := h.over(tenant, expr, start, end, (end-start)/200).text(); !slices.Equal(want, got) {
				return fmt.Errorf("want %d series, got %d:\n%.2000q\n%.2000q", len(want), len(got), want, got)
			}
			return nil
		})
	}
}

// TestBucketsOfOthers: a real Prometheus' blocks, in the layouts in which Cortex
// and Mimir keep them, are read where they lie; those of Thanos are copied.
func TestBucketsOfOthers(t *testing.T) {
	t.Parallel()
	p := startPrometheus(t, "global: {scrape_interval: 250ms}\nscrape_configs: [{job_name: self, static_configs: [{targets: ['localhost:1']}]}]\n", "--web.enable-admin-api")
	until(t, patience, "samples of a target that is away", func() error {
		if got := p.instant("", "count_over_time(up[1h]) > 20", time.Now().UnixMilli()).text(); len(got) == 0 {
			return errors.New("there are too few")
		}
		return nil
	})
	status, answer, err := p.do(http.MethodPost, "/api/v1/admin/tsdb/snapshot", "", nil, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status, answer)
	snapshots, err := filepath.Glob(filepath.Join(p.dir, "data", "snapshots", "*", "*", "meta.json"))
	require.NoError(t, err)
	require.Len(t, snapshots, 1)
	made := filepath.Dir(snapshots[0])
	var meta bucket.Meta
	readJSON(t, filepath.Join(made, "meta.json"), &meta)
	start, end := meta.MinTime, meta.MaxTime-1
	exprs := []string{`up`, `sum(count_over_time(up[2s]))`, `{__name__=~"scrape_.+"}`, `count by (__name__) ({job="self"})`}

	thanosMeta := meta
	thanosMeta.Thanos = bucket.ThanosMeta{Version: 1, Labels: map[string]string{"cluster": "eu", "replica": "r0"}, Source: "sidecar", SegmentFiles: []string{"000001"}}
	ownMeta := meta
	ownMeta.Thanos = bucket.ThanosMeta{Version: 1, Labels: map[string]string{"__org_id__": "cortex"}, Source: "ingester"}

	h := newHearth(t, "querier.refresh_interval=1s", "compactor.interval=1s")
	store := filepath.Join(h.dir, "bucket")
	put := func(folder string, m *bucket.Meta) {
		t.Helper()
		dir := filepath.Join(folder, m.ULID.String())
		require.NoError(t, os.CopyFS(dir, os.DirFS(made)))
		writeJSON(t, filepath.Join(dir, "meta.json"), m)
	}
	put(filepath.Join(store, "bare"), &meta) // as it comes from Prometheus
	put(filepath.Join(store, "cortex"), &ownMeta)
	writeIndex(t, filepath.Join(store, "cortex"), []map[string]any{{"block_id": meta.ULID.String(), "min_time": meta.MinTime, "max_time": meta.MaxTime, "segments_format": "1b6d", "segments_num": 1, "uploaded_at": 1}})
	put(filepath.Join(store, "behind"), &ownMeta) // the index of its writer does not have it yet
	writeIndex(t, filepath.Join(store, "behind"), []map[string]any{})
	thanos := filepath.Join(t.TempDir(), "bucket")
	put(thanos, &thanosMeta)
	h.start()
	for _, tenant := range []string{"bare", "cortex", "behind"} {
		sameAnswers(t, h, tenant, p, start, end, exprs...)
	}
	require.Empty(t, h.instant("nobody", "up", end).text())

	runTool(t, program(t), "blocks", "copy", "-set", "bucket.filesystem.dir="+thanos, "-root", "-to-set", "data_dir="+h.dir, "-to-tenant", "flat", "-external-labels", "drop")
	sameAnswers(t, h, "flat", p, start, end, exprs...)
	runTool(t, program(t), "blocks", "copy", "-set", "bucket.filesystem.dir="+thanos, "-root", "-to-set", "data_dir="+h.dir, "-to-tenant", "labelled", "-external-labels", "add")
	sameAnswers(t, h, "labelled", p, start, end, `sum by (job, instance) (up)`, `count by (__name__) ({job="self"})`)
	require.Len(t, h.instant("labelled", `{job="self",cluster="eu",replica="r0"}`, end).text(), len(p.instant("", `{job="self"}`, end).text()))
	for _, tenant := range []string{"bare", "cortex", "behind", "flat", "labelled"} {
		require.Contains(t, runTool(t, program(t), "blocks", "verify", "-set", "data_dir="+h.dir, "-tenant", tenant), "sound")
	}
	require.NoFileExists(t, filepath.Join(thanos, "bucket-index.json.gz"), "the other's bucket is only read")
}

func readJSON(t testing.TB, path string, into any) {
	t.Helper()
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(content, into))
}

func writeJSON(t testing.TB, path string, v any) {
	t.Helper()
	content, err := json.Marshal(v)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, content, fs.FileMode(0o666)))
}

// writeIndex writes a list of blocks as Cortex and Mimir do.
func writeIndex(t testing.TB, home string, blocks []map[string]any) {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	require.NoError(t, json.NewEncoder(z).Encode(map[string]any{"version": 1, "blocks": blocks, "block_deletion_marks": []any{}, "updated_at": time.Now().Unix()}))
	require.NoError(t, z.Close())
	require.NoError(t, os.WriteFile(filepath.Join(home, "bucket-index.json.gz"), b.Bytes(), 0o666))
}
