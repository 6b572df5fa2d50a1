package distributor

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

func deduplicating(d *door) { d.limits.Defaults.HADedupe = true }

// What a tenant sees: 200 or 204 of the elected replica, 202 of others, in both
// protocols.
func TestHAAnswers(t *testing.T) {
	d := newDoor(t, deduplicating)
	for _, c := range []struct {
		replica string
		v1, v2  int
		written string
	}{{"a", 200, 204, "1"}, {"b", 202, 202, "0"}} {
		require.Equal(t, c.v1, d.write(d.series("__name__", "m", "__replica__", c.replica, "cluster", "c")).Code)
		v2, err := (&writev2.Request{
			Symbols: []string{"", "__name__", "m", "__replica__", c.replica, "cluster", "c", "help"},
			Timeseries: []writev2.TimeSeries{{
				LabelsRefs: []uint32{1, 2, 3, 4, 5, 6}, Samples: []writev2.Sample{{Timestamp: d.now.UnixMilli()}},
				Exemplars: []writev2.Exemplar{{Value: 1, Timestamp: d.now.UnixMilli()}}, Metadata: writev2.Metadata{HelpRef: 7},
			}},
		}).Marshal()
		require.NoError(t, err)
		w := d.post(snappy.Encode(nil, v2), "Content-Type", "application/x-protobuf;proto=io.prometheus.write.v2.Request")
		require.Equal(t, c.v2, w.Code)
		require.Equal(t, []string{c.written}, w.Header()[samplesWritten])
		require.Equal(t, []string{"0"}, w.Header()[histogramsWritten])
		require.Equal(t, []string{c.written}, w.Header()[exemplarsWritten])
		require.Empty(t, w.Body.String())
	}
	require.Equal(t, []string{`t m{cluster="c"}`, `t m{cluster="c"}`}, d.ing.got, "without the replica label")
	require.Equal(t, 2., testutil.ToFloat64(d.Distributor.metrics.ha.deduplicated))
	require.NoError(t, testutil.CollectAndCompare(d.Distributor.metrics.refused, strings.NewReader("")), "dropped is not refused")
}

// Of a request that mixes pairs and replicas, what each is due is done.
func TestHAMixedRequest(t *testing.T) {
	d := newDoor(t, deduplicating)
	for _, s := range []prompb.TimeSeries{d.series("__name__", "m", "__replica__", "a", "cluster", "c"), d.series("__name__", "m", "__replica__", "y", "cluster", "e")} {
		require.Equal(t, 200, d.write(s).Code)
	}
	d.ing.got = nil
	w := d.write(
		d.series("__name__", "one", "__replica__", "a", "cluster", "c"),
		d.series("__name__", "one", "__replica__", "b", "cluster", "c"),
		d.series("__name__", "one", "__replica__", "x", "cluster", "d"),
		d.series("__name__", "one", "__replica__", "a", "cluster", "e"),
		d.series("__name__", "two", "cluster", "c"),
		d.series("__name__", "two", "__replica__", "b"),
		d.series("__name__", "two", "__replica__", "b", "cluster", ""),
		d.series("__name__", "two", "__replica__", "", "cluster", "c"),
		d.series("zone", "z", "cluster", "c", "__replica__", "a", "__name__", "unsorted"),
		d.series("__name__", "two", "__replica__", "b", "cluster", "c"),
		d.series("__name__", "three"),
	)
	require.Equal(t, 200, w.Code, w.Body)
	require.Equal(t, []string{
		`t one{cluster="c"}`, `t one{cluster="d"}`, `t two{cluster="c"}`, `t two{__replica__="b"}`, `t two{__replica__="b"}`,
		`t two{cluster="c"}`, `t unsorted{cluster="c", zone="z"}`, `t three`,
	}, d.ing.got)
	require.Equal(t, 3., testutil.ToFloat64(d.Distributor.metrics.ha.deduplicated))
	require.Equal(t, []string{""}, d.ing.without[len(d.ing.without)-1:], "some series keep the label: it is not to be left out of all")

	require.Equal(t, 200, d.write(d.series("__name__", "m", "__replica__", "a", "cluster", "c"), d.series("__name__", "m", "__replica__", "b", "cluster", "c")).Code, "something is stored")
	require.Equal(t, []string{"__replica__"}, d.ing.without[len(d.ing.without)-1:])
	require.Equal(t, 202, d.write(d.series("__name__", "m", "__replica__", "b", "cluster", "c"), d.series("__name__", "m", "__replica__", "x", "cluster", "e")).Code)

	w = d.write(d.series("__name__", "m", "__replica__", "b", "cluster", "c"), d.series("job", "no name"))
	require.Equal(t, 400, w.Code, "a refusal is told")
	require.Contains(t, w.Body.String(), "refused: 1 err-missing-metric-name;")
}

// A request of very many replicas is answered for each.
func TestHAVeryManyReplicas(t *testing.T) {
	d := newDoor(t, deduplicating, func(d *door) { d.limits.Defaults.MaxHAClusters = 0 })
	var ts []prompb.TimeSeries
	for i := range 3 * maxHAGroups {
		for _, replica := range []string{"a", "b"} {
			ts = append(ts, d.series("__name__", "m", "__replica__", replica, "cluster", fmt.Sprint(i)))
		}
	}
	for range 2 {
		d.ing.got = nil
		require.Equal(t, 200, d.write(ts...).Code)
		require.Len(t, d.ing.got, 3*maxHAGroups)
	}
	require.Equal(t, float64(6*maxHAGroups), testutil.ToFloat64(d.Distributor.metrics.ha.deduplicated))
}

func TestHALimits(t *testing.T) {
	off, other, plain := tenant.DefaultLimits(), tenant.DefaultLimits(), tenant.DefaultLimits()
	other.HADedupe, other.HAClusterLabel, other.HAReplicaLabel = true, "dc", "prom"
	plain.HADedupe, plain.HAClusterLabel, plain.HAReplicaLabel = true, "", ""
	plain.MaxLabelNamesPerSeries = 2
	d := newDoor(t, func(d *door) {
		d.limits.Tenants = map[tenant.ID]tenant.Limits{"off": off, "other": other, "plain": plain}
	})
	write := func(id string, ts ...prompb.TimeSeries) int {
		b, err := (&prompb.WriteRequest{Timeseries: ts}).Marshal()
		require.NoError(t, err)
		return d.post(snappy.Encode(nil, b), tenant.Header, id).Code
	}
	for _, replica := range []string{"a", "b"} {
		write("off", d.series("__name__", "m", "__replica__", replica, "cluster", "c"))
		write("other", d.series("__name__", "m", "dc", "c", "prom", replica, "__replica__", "r"))
		write("plain", d.series("__name__", "m", "__replica__", replica, "cluster", "c"))
	}
	require.Equal(t, []string{
		`off m{__replica__="a", cluster="c"}`, `other m{__replica__="r", dc="c"}`, `plain m{cluster="c"}`,
		`off m{__replica__="b", cluster="c"}`,
	}, d.ing.got, "a label that is not stored is not counted")
}

// Names that nobody should have to keep, and labels that are refused, make no pairs.
func TestHANoPairOfBadNames(t *testing.T) {
	d := newDoor(t, deduplicating, func(d *door) { d.limits.Defaults.MaxLabelValueLength = 0 })
	w := d.write(
		d.series("__name__", "m", "__replica__", "a", "cluster", "\xff"),
		d.series("__name__", "m", "__replica__", "\xff", "cluster", "c"),
		d.series("__name__", "m", "__replica__", "a", "cluster", strings.Repeat("c", maxHAName+1)),
	)
	require.Equal(t, 400, w.Code)
	require.Contains(t, w.Body.String(), "2 err-label-invalid")
	require.Len(t, d.ing.got, 1)
	require.Zero(t, d.ha.live())
	require.Equal(t, 200, d.write(d.series("__name__", "m", "__replica__", "a", "cluster", strings.Repeat("c", maxHAName))).Code)
	require.Equal(t, 1, d.ha.live())
}

// A mixed request that was held is stored only as far as it was held.
func TestHAHeldMixedRequest(t *testing.T) {
	t.Parallel()
	inWorld(t, 1, func(w *world) {
		d := w.nodes[0]
		require.Equal(t, 200, d.write(t, "t", append(scrape("c", "a"), scrape("d", "a")...)).Code)
		mixed := append(append(append(scrape("c", "b"), scrape("d", "a")...), scrape("d", "b")...), scrape("e", "b")...)
		mixed = append(mixed, prompb.TimeSeries{Labels: []prompb.Label{{Name: "__name__", Value: "alone"}}, Samples: mixed[0].Samples})
		require.Equal(t, 200, d.write(t, "t", mixed).Code)
		time.Sleep(31 * second)
		require.Equal(t, 200, w.send(0, "b"))
		require.Len(t, w.samples[`t up{cluster="c"}`], 3)
		require.Len(t, w.samples[`t up{cluster="d"}`], 2)
		require.Len(t, w.samples[`t up{cluster="e"}`], 1)
		require.Len(t, w.samples[`t alone`], 1)
	})
}

// A request may be dropped just before its replica takes over, and be held just
// after.
func TestHAHeldTooLate(t *testing.T) {
	t.Parallel()
	inWorld(t, 1, func(w *world) {
		d := w.nodes[0]
		require.Equal(t, 200, w.send(0, "a"))
		require.Equal(t, haDropped, d.ha.decide("t", d.limits("t"), "c", "b"))
		body, err := (&prompb.WriteRequest{Timeseries: scrape("c", "b")}).Marshal()
		require.NoError(t, err)
		time.Sleep(31 * second)
		require.Equal(t, 200, w.send(0, "b"))
		d.ha.hold("t", wire.V1, snappy.Encode(nil, body), []haGroup{{"c", "b", haDropped}, {"c", "a", haStored}, {"gone", "b", haDropped}})
		synctest.Wait()
		require.Equal(t, 2, w.stored("b"))
		require.Zero(t, w.heldBytes())
	})
}

// A request that was not stored is sent again, and not held.
func TestHAFailedRequestIsNotHeld(t *testing.T) {
	t.Parallel()
	inWorld(t, 1, func(w *world) {
		require.Equal(t, 200, w.send(0, "a"))
		w.fail(&wire.UserError{Kind: wire.Unavailable, ID: "err-x"})
		require.Equal(t, 503, w.nodes[0].write(t, "t", append(scrape("c", "a"), scrape("c", "b")...)).Code)
		require.Zero(t, w.heldBytes())
	})
}

func TestHAPage(t *testing.T) {
	t.Parallel()
	inWorld(t, 1, func(w *world) {
		d := w.nodes[0]
		get := func(path, accept string) *httptest.ResponseRecorder {
			r := httptest.NewRequest(http.MethodGet, path, nil)
			r.Header.Set("Accept", accept)
			out := httptest.NewRecorder()
			d.server.ServeHTTP(out, r)
			require.Equal(t, 200, out.Code)
			return out
		}
		require.JSONEq(t, `{"pairs":[]}`, get("/distributor/ha_tracker", "application/json").Body.String())
		began := time.Now().UTC()
		require.Equal(t, 200, d.write(t, "z", scrape("<b>", "a")).Code)
		require.Equal(t, 200, w.send(0, "a"))
		time.Sleep(10 * second)
		require.Equal(t, 200, w.send(0, "a"))
		time.Sleep(5 * second)
		require.Equal(t, 202, w.send(0, "b"))
		time.Sleep(5 * second)

		out := get("/distributor/ha_tracker", "application/json")
		require.Equal(t, "application/json", out.Header().Get("Content-Type"))
		var got struct {
			Pairs []map[string]string
		}
		require.NoError(t, json.Unmarshal(out.Body.Bytes(), &got))
		at := func(d time.Duration) string { return began.Add(d).Format(time.RFC3339Nano) }
		require.Equal(t, []map[string]string{
			{"tenant": "t", "cluster": "c", "replica": "a", "elected_since": at(0), "last_received": at(10 * second), "failover_timeout": "30s", "other_replica": "b", "other_last_received": at(15 * second)},
			{"tenant": "z", "cluster": "<b>", "replica": "a", "elected_since": at(0), "last_received": at(0), "failover_timeout": "30s"},
		}, got.Pairs)

		out = get("/ha-tracker", "text/html")
		require.Contains(t, out.Body.String(), "<tr><td>t<td>c<td>a<td>"+began.Format("2006-01-02 15:04:05")+"<td>10s ago<td>30s<td>b<td>5s ago</tr>")
		require.Contains(t, out.Body.String(), "<td>&lt;b&gt;<td>a")
		time.Sleep(30 * second)
		require.Equal(t, 200, w.send(0, "b"))
		require.Contains(t, get("/ha-tracker", "").Body.String(), "<td>c<td>b<td>")
		require.Contains(t, get("/ha-tracker", "").Body.String(), "<td>none<td></tr>")
	})
}

func TestHAMetrics(t *testing.T) {
	t.Parallel()
	inWorld(t, 1, func(w *world) {
		require.Equal(t, 200, w.send(0, "a"))
		require.Equal(t, 202, w.send(0, "b"))
		require.NoError(t, testutil.GatherAndCompare(w.nodes[0].reg, strings.NewReader(`
# HELP hearth_distributor_ha_deduplicated_samples_total Samples of replicas that were not elected: answered as accepted and not stored.
# TYPE hearth_distributor_ha_deduplicated_samples_total counter
hearth_distributor_ha_deduplicated_samples_total 1
# HELP hearth_distributor_ha_pairs Pairs of Prometheus that are known, of all tenants.
# TYPE hearth_distributor_ha_pairs gauge
hearth_distributor_ha_pairs 1
`), "hearth_distributor_ha_deduplicated_samples_total", "hearth_distributor_ha_pairs"))
		require.InDelta(t, heldOverhead+60, w.heldBytes(), 30)
		synctest.Wait()
	})
}

// nowhere is an ingester that costs nothing.
type nowhere struct{}

func (nowhere) Needs(tenant.ID, wire.Version) wire.Names { return wire.Keys }

func (nowhere) Push(context.Context, tenant.ID, *wire.Request) (wire.Pushed, error) {
	return wire.Pushed{}, nil
}

// BenchmarkHA is a request of 2000 series through the door, not deduplicated,
// of the elected replica, and of another.
func BenchmarkHA(b *testing.B) {
	for _, c := range []struct {
		name, replica string
		dedupe        bool
	}{{"off", "a", false}, {"elected", "a", true}, {"other", "b", true}} {
		b.Run(c.name, func(b *testing.B) {
			l := tenant.DefaultLimits()
			l.HADedupe, l.IngestionRate = c.dedupe, 0
			cfg := DefaultConfig()
			d, err := New(cfg, nowhere{}, nil, func(tenant.ID) *tenant.Limits { return &l }, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
			require.NoError(b, err)
			require.Equal(b, haStored, d.ha.decide("t", &l, "production-eu-west-1", "a"))
			body := snappy.Encode(nil, benchBody(b, c.replica))
			buf := &buffers{}
			b.ReportAllocs()
			for b.Loop() {
				buf.compressed = append(buf.compressed[:0], body...)
				buf.held = d.inflight.hold("t")
				if err := buf.decompress(len(buf.body)); err != nil {
					b.Fatal(err)
				}
				buf.held.end()
				if _, err := d.store(b.Context(), "t", wire.V1, buf); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/2000, "ns/series")
		})
	}
}

func benchBody(b *testing.B, replica string) []byte {
	req := prompb.WriteRequest{}
	for i := range 2000 {
		ls := []string{
			"__name__", fmt.Sprintf("container_network_receive_packets_dropped_%03d_total", i%50), "__replica__", replica,
			"cluster", "production-eu-west-1", "container", "checkout-service", "endpoint", "https-metrics",
			"instance", fmt.Sprintf("10.128.%d.%d:10250", i/200, i%200), "job", "kubelet", "namespace", "team-payments",
			"pod", fmt.Sprintf("checkout-service-6d5f7c9b8-%05d", i/50), "service", "prometheus-kubelet",
		}
		ts := prompb.TimeSeries{Samples: []prompb.Sample{{Timestamp: time.Now().UnixMilli(), Value: 1}}}
		for k := 0; k < len(ls); k += 2 {
			ts.Labels = append(ts.Labels, prompb.Label{Name: ls[k], Value: ls[k+1]})
		}
		req.Timeseries = append(req.Timeseries, ts)
	}
	body, err := req.Marshal()
	require.NoError(b, err)
	return body
}
