package ingester

import (
	"math/rand/v2"
	"testing"

	"github.com/prometheus/prometheus/storage"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/wire"
)

// The table agrees with a map under random use, with keys that crowd.
func TestRefsAgreeWithAMap(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var r refs
	want := map[wire.Key]storage.SeriesRef{}
	key := func() wire.Key {
		k := wire.Key{rnd.Uint64N(64) << 58, rnd.Uint64N(100)}
		if rnd.IntN(4) == 0 {
			k[0] = ^uint64(0) // the last home, so that runs wrap around
		}
		return k
	}
	for step := range 200_000 {
		k := key()
		switch {
		case rnd.IntN(20_000) < 9000+2000*(step/20_000%2*2-1):
			ref := storage.SeriesRef(1 + rnd.IntN(3))
			r.put(k, ref)
			want[k] = ref
		default:
			ref := storage.SeriesRef(1 + rnd.IntN(3))
			r.drop(k, ref)
			if want[k] == ref {
				delete(want, k)
			}
		}
		if step%997 != 0 {
			continue
		}
		require.Equal(t, len(want), r.used)
		series := []wire.Series{{Key: key()}}
		for k := range want {
			series = append(series, wire.Series{Key: k})
		}
		for i, ref := range r.lookup(series, nil) {
			require.Equal(t, want[series[i].Key], ref)
		}
	}
}

func BenchmarkRefs(b *testing.B) {
	const known = 100_000
	var r refs
	m := map[wire.Key]storage.SeriesRef{}
	keys := make([]wire.Key, known)
	for i := range keys {
		keys[i] = wire.Key{rand.Uint64(), rand.Uint64()}
		r.put(keys[i], storage.SeriesRef(i+1))
		m[keys[i]] = storage.SeriesRef(i + 1)
	}
	series := make([]wire.Series, 2000)
	out := make([]storage.SeriesRef, 0, len(series))
	pick := func(n int) {
		for i := range series {
			series[i].Key = keys[(n*2000+i*37)%known]
		}
	}
	b.Run("table", func(b *testing.B) {
		for n := 0; b.Loop(); n++ {
			pick(n)
			out = r.lookup(series, out[:0])
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*2000), "ns/series")
	})
	b.Run("map", func(b *testing.B) {
		for n := 0; b.Loop(); n++ {
			pick(n)
			out = out[:0]
			for i := range series {
				out = append(out, m[series[i].Key])
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*2000), "ns/series")
	})
}
