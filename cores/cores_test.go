//go:build linux

package cores_test

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hearth-metrics/hearth/cores"
)

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		cores.Overcommit()
	}
	goleak.VerifyTestMain(m)
}

// asMain makes this test a process that calls Overcommit, as main does.
const asMain = "HEARTH_TEST_OVERCOMMIT"

// Long work has a thread of its own, which gives way after a while; no other does.
func TestLong(t *testing.T) {
	if os.Getenv(asMain) == "" {
		for _, procs := range []string{"", "2"} {
			cmd := exec.Command(os.Args[0], "-test.run=^TestLong$", "-test.v")
			cmd.Env = append(os.Environ(), asMain+"=1", "GOMAXPROCS="+procs)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
		}
		return
	}
	before := niceOf(t)
	if os.Getenv("GOMAXPROCS") != "" || runtime.NumCPU() != cores.Count() {
		require.Equal(t, cores.Count(), runtime.GOMAXPROCS(0), "somebody has decided")
		cores.Long(func() {
			time.Sleep(100 * time.Millisecond)
			require.Equal(t, before, niceOf(t))
		})
		return
	}
	require.Greater(t, runtime.GOMAXPROCS(0), cores.Count())
	for range 3 {
		cores.Long(func() {
			require.Equal(t, before, niceOf(t))
			for deadline := time.Now().Add(10 * time.Second); niceOf(t) == before; time.Sleep(time.Millisecond) {
				require.True(t, time.Now().Before(deadline), "it has not given way")
			}
			require.Equal(t, before+10, niceOf(t))
		})
		require.Equal(t, before, niceOf(t))
	}
}

func TestLongPanics(t *testing.T) {
	sentinel := errors.New("to be compared")
	require.PanicsWithValue(t, sentinel, func() { cores.Long(func() { panic(sentinel) }) })
	require.Panics(t, func() { cores.Long(func() { _ = make([]int, 0)[len(os.Args)] }) })
}

func BenchmarkLong(b *testing.B) {
	for b.Loop() {
		cores.Long(func() {})
	}
}
