package compactor_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
)

// fill writes random days: replicas with gaps, late blocks, one that was cut
// once a day, in two homes.
func (w *world) fill(days, perTenant int) {
	w.Helper()
	for day := range int64(days) {
		var own []series
		for slot := int64(0); slot < 24; slot += 2 {
			if w.rnd.IntN(3) > 0 {
				continue
			}
			from := dayStart(day+3) + slot*hour
			own = append(own, w.shipSlot("own", []tenant.ID{"own"}, perTenant, from)...)
			w.shipSlot(bucket.PoolHome, []tenant.ID{"a", "b", "c", "d", "e"}, perTenant/2, from)
		}
		if w.rnd.IntN(2) == 0 {
			w.upload("own", joined(own))
		}
	}
}

// joined has each series once, of all that come one after the other in time.
func joined(all []series) (out []series) {
	at := map[string]int{}
	for _, s := range all {
		n, ok := at[s.labels.String()]
		if !ok {
			at[s.labels.String()] = len(out)
			out = append(out, s)
			continue
		}
		out[n].samples = slices.Concat(out[n].samples, s.samples)
	}
	return out
}

func (w *world) shipSlot(home bucket.Key, ids []tenant.ID, perTenant int, from int64) (all []series) {
	w.Helper()
	for _, id := range ids {
		for n := range perTenant {
			if w.rnd.IntN(4) > 0 {
				all = append(all, w.randomSeries(id, n, from, from+2*hour))
			}
		}
	}
	w.replicas(home, all)
	if w.rnd.IntN(3) == 0 {
		w.late(home, all)
	}
	return all
}

// TestEverySampleWrittenIsRead compares random blocks with a plain map after
// each round: nothing is lost and nothing is there that was not written, and
// in the end each sample is there once.
func TestEverySampleWrittenIsRead(t *testing.T) {
	t.Parallel()
	for seed := range uint64(4) {
		split := []uint64{0, 7, 3, 20}[seed]
		t.Run(fmt.Sprintf("seed %d, split above %d", seed, split), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, seed)
			w.fill(1, 10)
			before := w.requireContent("own", bucket.PoolHome)
			require.NotZero(t, before, "replicas")
			first := w.compactor(w.bucket, split, forEver)
			require.NoError(t, first.Round(t.Context()))
			w.requireWeights(first, "own")
			require.Zero(t, w.requireContent("own", bucket.PoolHome), "samples that are there twice")

			// Late blocks after all that, and a compactor that was restarted.
			w.fill(1, 6)
			c := w.compactor(w.bucket, split, forEver)
			require.NoError(t, c.Round(t.Context()))
			w.requireWeights(c, "own")
			require.Zero(t, w.requireContent("own", bucket.PoolHome), "samples that are there twice")
			t.Logf("%d blocks became %d own and %d pooled ones", w.blocks, len(w.live("own")), len(w.live(bucket.PoolHome)))
		})
	}
}
