package compactor_test

import (
	"fmt"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
)

// TestSizeAfterCompaction has a day of 40 series, scraped every 15 seconds,
// on three ingesters, each with gaps of its own. Compacted it is about as
// large as one of them, and at most 1.3 bytes a sample.
func TestSizeAfterCompaction(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	one := int64(0)
	for slot := int64(0); slot < 24; slot += 2 {
		var all []series
		for n := range 40 {
			s := series{tenant: "own", labels: labels.FromStrings("__name__", fmt.Sprintf("metric_%d", n%10), "instance", fmt.Sprintf("host-%d:9100", n/10), "job", "node")}
			v := float64(n * 1000)
			for at := dayStart(3) + slot*hour + int64(n)*131; at < dayStart(3)+(slot+2)*hour; at += 15_000 {
				if n%2 == 0 { // a counter; the others are gauges that seldom change
					v += float64(w.rnd.IntN(20))
				} else if w.rnd.IntN(20) == 0 {
					v = float64(w.rnd.IntN(1000))
				}
				s.samples = append(s.samples, sample{t: at, f: v})
			}
			all = append(all, s)
		}
		id := w.upload("own", all)
		one += sizeOf(w, id.String())
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
	samples := 0
	for _, s := range w.want {
		samples += len(s)
	}
	require.EqualValues(t, samples, live[0].Samples)
	perSample := float64(live[0].Size) / float64(samples)
	t.Logf("%d samples in %d bytes, %.3f bytes a sample; blocks of one replica had %d bytes", samples, live[0].Size, perSample, one)
	require.Less(t, perSample, 1.3)
	require.LessOrEqual(t, live[0].Size, one+one/20)
}

func sizeOf(w *world, id string) int64 {
	w.Helper()
	x, _, err := bucket.ReadIndex(w.Context(), w.bucket, "own")
	require.NoError(w, err)
	for _, b := range x.Blocks {
		if b.ID.String() == id {
			return b.Size
		}
	}
	w.Fatalf("no block %s", id)
	return 0
}
