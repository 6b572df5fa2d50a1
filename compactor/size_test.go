package compactor_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
)

// nodeKinds is what a node exporter's series are like, by their share: as
// counted in scrapes of node_exporter 1.12, each 15 seconds for half an hour,
// and weighed for a machine of eight CPUs with 1,200 series. In brackets the
// bytes that a sample's value took there, without the chunk around it.
var nodeKinds = []struct {
	share int // of 100
	name  string
	next  func(rnd *rand.Rand, at int, v float64) float64
}{
	{60, "node_filesystem_size_bytes", func(_ *rand.Rand, _ int, v float64) float64 { return v }},                                // and flags, errors, settings [0.25]
	{8, "node_network_receive_bytes_total", burst(1 << 16)},                                                                      // and disk bytes, interrupts, faults [3 to 4.5]
	{7, "node_network_receive_packets_total", burst(400)},                                                                        // and forks, reads, softirqs [1 to 3]
	{6, "node_cpu_seconds_total", seldom(seconds, 2)},                                                                            // in hundredths, not each of them busy [3.5]
	{7, "node_memory_Active_bytes", pages},                                                                                       // and free, cached, go_memstats [1.5 to 3]
	{3, "node_filesystem_avail_bytes", seldom(pages, 8)},                                                                         // files come and go [1]
	{2, "node_sockstat_TCP_alloc", func(r *rand.Rand, _ int, _ float64) float64 { return float64(90 + r.IntN(7)) }},              // [1 to 2]
	{3, "node_disk_io_time_seconds_total", seconds},                                                                              // and pressure, loads [6.5 to 7]
	{4, "node_scrape_collector_duration_seconds", func(r *rand.Rand, _ int, _ float64) float64 { return r.ExpFloat64() / 1000 }}, // noise [7.5]
}

// burst grows by up to n where there is traffic, a third of the time.
func burst(n int) func(*rand.Rand, int, float64) float64 {
	return func(r *rand.Rand, at int, v float64) float64 {
		if at/20%3 != 0 && r.IntN(3) > 0 {
			return v
		}
		return v + float64(r.IntN(n))
	}
}

func seconds(r *rand.Rand, _ int, v float64) float64 {
	return math.Round(100*(v+15*math.Abs(r.NormFloat64())/10)) / 100
}

func pages(r *rand.Rand, _ int, v float64) float64 {
	return math.Max(0, v+4096*float64(r.IntN(200)-100))
}

func seldom(f func(*rand.Rand, int, float64) float64, n int) func(*rand.Rand, int, float64) float64 {
	return func(r *rand.Rand, at int, v float64) float64 {
		if r.IntN(n) > 0 {
			return v
		}
		return f(r, at, v)
	}
}

// node is an exporter's series between two times, scraped every 15 seconds;
// values go on from those before.
func (w *world) node(values []float64, from, to int64) (all []series) {
	n := 0
	for _, k := range nodeKinds {
		for i := range k.share {
			s := series{tenant: "own", labels: labels.FromStrings("__name__", k.name, "device", fmt.Sprintf("dev%d", i), "instance", "host-1:9100", "job", "node")}
			at := 0
			for t := from + 7_123; t < to; t += 15_000 {
				values[n] = k.next(w.rnd, at, values[n])
				s.samples = append(s.samples, sample{t: t, f: values[n]})
				at++
			}
			all = append(all, s)
			n++
		}
	}
	return all
}

// TestSizeAfterCompaction has a day of a node exporter's series on three
// ingesters, two of which have gaps. Compacted it is smaller than one of them,
// and has at most 1.3 bytes a sample.
func TestSizeAfterCompaction(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	values := make([]float64, 100)
	for n := range values {
		values[n] = float64(w.rnd.IntN(1 << 30))
	}
	var one bucket.IndexBlock
	for slot := int64(0); slot < 24; slot += 2 {
		all := w.node(values, dayStart(3)+slot*hour, dayStart(3)+(slot+2)*hour)
		b := entry(w, w.upload("own", all).String())
		one.Size, one.IndexSize, one.Samples = one.Size+b.Size, one.IndexSize+b.IndexSize, one.Samples+b.Samples
		for range 2 {
			gappy := make([]series, len(all))
			for i, s := range all {
				gappy[i] = series{s.tenant, s.labels, nil}
				for _, x := range s.samples {
					if w.rnd.IntN(200) > 0 {
						gappy[i].samples = append(gappy[i].samples, x)
					}
				}
			}
			w.upload("own", gappy)
		}
	}
	require.NoError(t, w.compactor(w.bucket, 0, forEver).Round(t.Context()))
	require.Zero(t, w.requireContent("own"))
	live := w.live("own")
	require.Len(t, live, 1)
	require.Equal(t, one.Samples, live[0].Samples)
	for _, x := range []struct {
		what string
		bucket.IndexBlock
	}{{"before, one copy", one}, {"after", live[0]}} {
		n := float64(x.Samples)
		t.Logf("%s: %d samples, %.3f bytes each, %.3f of them chunks, %.3f index", x.what, x.Samples, float64(x.Size)/n, float64(x.Size-x.IndexSize)/n, float64(x.IndexSize)/n)
	}
	require.Less(t, float64(live[0].Size)/float64(live[0].Samples), 1.3)
	require.Less(t, live[0].Size, one.Size)
}

func entry(w *world, id string) bucket.IndexBlock {
	w.Helper()
	x, _, err := bucket.ReadIndex(w.Context(), w.bucket, "own")
	require.NoError(w, err)
	for _, b := range x.Blocks {
		if b.ID.String() == id {
			return b
		}
	}
	w.Fatalf("no block %s", id)
	return bucket.IndexBlock{}
}
