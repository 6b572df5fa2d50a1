package ingester

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// firstSegments lists the first segment of the write-ahead log of every head.
func (n *node) firstSegments() []string {
	n.t.Helper()
	pooled, err := filepath.Glob(filepath.Join(n.dir, "ingester", "pool-*", "wal", "00000000"))
	require.NoError(n.t, err)
	own, err := filepath.Glob(filepath.Join(n.dir, "ingester", "tenants", "*", "wal", "00000000"))
	require.NoError(n.t, err)
	return append(pooled, own...)
}

// A repair of the log that does not end is begun anew.
func TestRepairThatDoesNotEnd(t *testing.T) {
	inBothHeads(t, func(t *testing.T, n *node) {
		n.start()
		n.push("t", series("up", at(base(), 1), at(base()+1000, 2)))
		want := n.read("t")
		n.stop()
		for _, s := range n.firstSegments() { // as a repair is killed before it has copied anything
			require.NoError(t, os.Rename(s, s+".repair"))
			require.NoError(t, os.WriteFile(s, nil, 0o666))
		}
		n.start()
		require.Equal(t, want, n.read("t"))
	})
}

// Half a record at the end of the log, as a process leaves it that is killed,
// takes nothing else with it: not the out-of-order samples either, which are in
// a log of their own.
func TestHalfARecord(t *testing.T) {
	inBothHeads(t, func(t *testing.T, n *node) {
		n.start()
		n.push("t", series("up", at(base(), 1), at(base()+1000, 2)), series("late", late(base(), 10)...))
		want := n.read("t")
		n.stop()
		for _, s := range n.firstSegments() {
			f, err := os.OpenFile(s, os.O_WRONLY|os.O_APPEND, 0)
			require.NoError(t, err)
			_, err = f.Write([]byte{1, 0, 100, 1, 2, 3, 4, 5})
			require.NoError(t, err)
			require.NoError(t, f.Close())
		}
		n.start()
		require.Equal(t, want, n.read("t"))
		require.Equal(t, int64(2), n.series.Load())
		n.restart()
		require.Equal(t, want, n.read("t"))
	})
}
