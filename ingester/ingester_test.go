package ingester

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

func TestMain(m *testing.M) {
	if os.Getenv(childDir) != "" { // what it leaves open ends with it
		os.Exit(m.Run())
	}
	goleak.VerifyTestMain(m)
}

// childDir is where a test that runs as a process of its own has its data.
const childDir = "HEARTH_INGESTER_TEST_DIR"

// node is an ingester under test with what outlives it.
type node struct {
	t      *testing.T
	dir    string
	bucket bucket.Bucket
	cfg    Config
	limits tenant.LimitsConfig
	upTo   time.Duration // for CutUpTo
	*Ingester
}

func newNode(t *testing.T) *node {
	dir := t.TempDir()
	b, err := bucket.New(bucket.DefaultConfig(), dir, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(t, err)
	n := &node{t: t, dir: dir, bucket: b, cfg: DefaultConfig(), limits: tenant.LimitsConfig{Defaults: tenant.DefaultLimits(), Tenants: map[tenant.ID]tenant.Limits{}}}
	t.Cleanup(func() {
		if n.Ingester != nil {
			n.stop()
		}
	})
	return n
}

func (n *node) limit(id tenant.ID, change func(*tenant.Limits)) *node {
	l := n.limits.Defaults
	change(&l)
	n.limits.Tenants[id] = l
	return n
}

func (n *node) start() *node {
	n.t.Helper()
	i := n.make()
	require.NoError(n.t, services.StartAndAwaitRunning(context.Background(), i))
	n.Ingester = i
	return n
}

func (n *node) make() *Ingester {
	n.t.Helper()
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	i, err := New(n.cfg, n.dir, n.bucket, n.limits.Of, logger, prometheus.NewRegistry())
	require.NoError(n.t, err)
	i.CutUpTo(n.upTo)
	return i
}

func (n *node) stop() {
	n.t.Helper()
	require.NoError(n.t, services.StopAndAwaitTerminated(context.Background(), n.Ingester))
	n.Ingester = nil
}

func (n *node) restart() { n.t.Helper(); n.stop(); n.start() }

// request encodes and decodes series, so tests go the way that senders go.
func request(t testing.TB, id tenant.ID, ts ...prompb.TimeSeries) *wire.Request {
	t.Helper()
	body, err := (&prompb.WriteRequest{Timeseries: ts}).Marshal()
	require.NoError(t, err)
	r := new(wire.Request)
	require.NoError(t, r.Walk(body, wire.V1, string(id), func(*wire.Series, []wire.Label) bool { return true }))
	return r
}

func series(lbls string, samples ...prompb.Sample) prompb.TimeSeries {
	ls, err := parseLabels(lbls)
	if err != nil {
		panic(err)
	}
	ts := prompb.TimeSeries{Samples: samples}
	ls.Range(func(l labels.Label) { ts.Labels = append(ts.Labels, prompb.Label{Name: l.Name, Value: l.Value}) })
	return ts
}

func (n *node) push(id tenant.ID, ts ...prompb.TimeSeries) wire.Pushed {
	n.t.Helper()
	p, err := n.Push(context.Background(), id, request(n.t, id, ts...))
	require.NoError(n.t, err)
	return p
}

// read returns all samples that match, as "labels t:v t:v".
func (n *node) read(id tenant.ID, ms ...*labels.Matcher) []string {
	n.t.Helper()
	q, _, err := n.Querier(context.Background(), id, 0, 1<<60)
	require.NoError(n.t, err)
	defer q.Close()
	if len(ms) == 0 {
		ms = append(ms, labels.MustNewMatcher(labels.MatchNotEqual, "__name__", ""))
	}
	var out []string
	set := q.Select(context.Background(), true, nil, ms...)
	for set.Next() {
		line := set.At().Labels().String()
		it := set.At().Iterator(nil)
		for vt := it.Next(); vt != chunkenc.ValNone; vt = it.Next() {
			switch vt {
			case chunkenc.ValFloat:
				at, v := it.At()
				line += fmt.Sprintf(" %d:%g", at, v)
			case chunkenc.ValHistogram:
				at, h := it.AtHistogram(nil)
				line += fmt.Sprintf(" %d:%s", at, h)
			case chunkenc.ValFloatHistogram:
				at, h := it.AtFloatHistogram(nil)
				line += fmt.Sprintf(" %d:%s", at, h)
			}
		}
		require.NoError(n.t, it.Err())
		out = append(out, line)
	}
	require.NoError(n.t, set.Err())
	return out
}

func at(t int64, v float64) prompb.Sample { return prompb.Sample{Timestamp: t, Value: v} }

// base is a block border, not long ago.
func base() int64 {
	const twoHours = 2 * 60 * 60 * 1000
	return time.Now().UnixMilli() / twoHours * twoHours
}
