//go:build linux || darwin

package storegateway

import (
	"context"
	"os"
	"syscall"
	"testing"

	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
)

// BenchmarkSelect reads all samples of 10,000 series of one block: as
// Prometheus does from a local block, and through the gateway with nothing
// cached, with all in memory, and with all on local disk. The bucket is a
// folder, so cold has no network in it.
func BenchmarkSelect(b *testing.B) {
	const samples = 480 // two hours
	spy := newSpy(b)
	dir := makeBlock(b, b.TempDir(), blockOptions{series: 10_000, samples: samples, floatsOnly: true})
	upload(b, spy, bucket.TenantHome(string(me)), dir)
	local := openOracle(b, dir)
	ctx := context.Background()
	hints := &storage.SelectHints{End: samples * step}

	// Time on the processor, which a busy machine does not blur.
	measure := func(b *testing.B, f func()) {
		var spent int64
		n := 0
		for b.Loop() {
			before := processorTime(b)
			f()
			spent += processorTime(b) - before
			n++
		}
		b.ReportMetric(float64(spent)/float64(n), "cpu-ns/op")
	}
	run := func(b *testing.B, open func() storage.Querier) {
		q := open()
		set := q.Select(ctx, true, hints, all())
		var series []storage.Series // as the engine does
		for set.Next() {
			series = append(series, set.At())
		}
		require.NoError(b, set.Err())
		var it chunkenc.Iterator
		n := 0
		for _, s := range series {
			it = s.Iterator(it)
			for it.Next() != chunkenc.ValNone {
				n++
			}
			require.NoError(b, it.Err())
		}
		require.Equal(b, 10_000*samples, n)
		require.NoError(b, q.Close())
	}
	gateway := func(b *testing.B, cfg Config, data string) func() storage.Querier {
		g := started(b, cfg, data, spy, tenant.DefaultLimits())
		return func() storage.Querier {
			q, err := g.Querier(ctx, me, 0, samples*step, blocksOf(b, g, me, 0, samples*step))
			require.NoError(b, err)
			return q
		}
	}
	inMemory, onDisk := DefaultConfig(), DefaultConfig()
	onDisk.ChunkCacheMemory = 0

	b.Run("prometheus", func(b *testing.B) {
		measure(b, func() {
			run(b, func() storage.Querier { return oracleQuerier(b, []*tsdb.Block{local}, 0, samples*step) })
		})
	})
	b.Run("memory", func(b *testing.B) {
		open := gateway(b, inMemory, b.TempDir())
		run(b, open)
		measure(b, func() { run(b, open) })
	})
	b.Run("disk", func(b *testing.B) {
		open := gateway(b, onDisk, b.TempDir())
		run(b, open)
		measure(b, func() { run(b, open) })
	})
	b.Run("cold", func(b *testing.B) {
		measure(b, func() {
			b.StopTimer()
			data, err := os.MkdirTemp(b.TempDir(), "")
			require.NoError(b, err)
			open := gateway(b, inMemory, data)
			b.StartTimer()
			run(b, open)
		})
	})
}

func processorTime(b *testing.B) int64 {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return u.Utime.Nano() + u.Stime.Nano()
}
