package storegateway

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant"
)

// resident is how many KiB of a mapped file are in this process's memory.
func resident(t *testing.T, file fileID) (kib int) {
	t.Helper()
	smaps, err := os.ReadFile("/proc/self/smaps")
	require.NoError(t, err)
	_, of, found := strings.Cut(string(smaps), " "+string(file)+" ")
	require.True(t, found, "the index is mapped")
	_, of, _ = strings.Cut(of, "\nRss:")
	_, err = fmt.Sscan(of, &kib)
	require.NoError(t, err)
	return kib
}

// Indexes are let go of when much is mapped, also while they are read.
func TestMappedIndexesAreGivenBack(t *testing.T) {
	t.Parallel()
	b := newSpy(t)
	oracles := twoBlocks(t, b)
	g := started(t, smallConfig(), t.TempDir(), b, tenant.DefaultLimits())
	minT, maxT := int64(0), int64(1<<60)
	want := oracle(t, oracles, minT, maxT, all())
	q, err := openAll(t, g, me, minT, maxT)
	require.NoError(t, err)
	set := q.Select(context.Background(), true, nil, all())
	require.True(t, set.Next())
	mapped := func() (kib int) {
		g.store.mu.Lock()
		defer g.store.mu.Unlock()
		for _, b := range g.store.blocks {
			kib += resident(t, b.index.file)
		}
		return kib
	}
	require.Positive(t, mapped())
	g.store.letGo()
	require.Positive(t, mapped(), "it is not much")
	g.store.mapped.floor.Store(-maxMapped)
	g.store.mapped.next.Store(0)
	g.store.letGo()
	require.Zero(t, mapped())
	for n := 1; set.Next(); n++ {
		require.Less(t, n, len(want))
	}
	require.NoError(t, set.Err())
	require.NoError(t, q.Close())
	got, err := query(t, g, me, minT, maxT, all())
	require.NoError(t, err)
	require.Equal(t, want, got)
}
