package compactor_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/compactor"
	"github.com/hearth-metrics/hearth/tenant"
)

// childEnv is the folder that a compactor in a process of its own works in.
const childEnv = "HEARTH_TEST_COMPACTOR_DIR"

// told prints a line before each write.
type told struct{ bucket.Bucket }

func (b told) Put(ctx context.Context, key bucket.Key, r io.ReadSeeker, size int64, cond bucket.Condition) (string, error) {
	fmt.Println("put", key)
	return b.Bucket.Put(ctx, key, r, size, cond)
}

func (b told) Delete(ctx context.Context, key bucket.Key) error {
	fmt.Println("delete", key)
	return b.Bucket.Delete(ctx, key)
}

// childMain is the process that is killed.
func childMain() int {
	dir := os.Getenv(childEnv)
	cfg := bucket.DefaultConfig()
	cfg.Filesystem.Dir = dir + "/bucket"
	b, err := bucket.New(cfg, dir, quiet, prometheus.NewRegistry())
	if err != nil {
		fmt.Println(err)
		return 1
	}
	c, err := compactor.New(settings(), dir, told{b}, forEver, quiet, prometheus.NewRegistry())
	if err != nil {
		fmt.Println(err)
		return 1
	}
	c.SplitAbove(8)
	for range 2 {
		if err := c.Round(context.Background()); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	return 0
}

// TestKill kills a process (SIGKILL) again and again at writes that chance
// chooses, over the same data folder. Every sample is there after each, and
// once only when a process was let live.
func TestKill(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 21)
	dir := t.TempDir()
	w.bucket = folderAt(t, dir)
	for slot := range int64(2) {
		w.shipSlot("own", []tenant.ID{"own"}, 3, dayStart(3)+2*slot*hour)
		w.shipSlot(bucket.PoolHome, []tenant.ID{"a", "b", "c"}, 3, dayStart(3)+2*slot*hour)
	}
	kills := 12
	if testing.Short() {
		kills = 3
	}
	for range kills {
		killAt(t, dir, 1+w.rnd.IntN(30))
		w.requireContent("own", bucket.PoolHome)
	}
	killAt(t, dir, -1)
	require.Zero(t, w.requireContent("own", bucket.PoolHome))
}

// killAt runs a compactor and kills it at its n-th write; never, if n is -1.
func killAt(t *testing.T, dir string, n int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+dir)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines, last := bufio.NewScanner(out), ""
	for i := 1; lines.Scan(); i++ {
		if last = lines.Text(); i == n {
			require.NoError(t, cmd.Process.Kill())
		}
	}
	err = cmd.Wait()
	if n == -1 {
		require.NoError(t, err, last)
	}
}
