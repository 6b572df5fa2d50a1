package cores_test

import (
	"os"
	"os/exec"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/cores"
)

// asMain makes this test a process that calls Overcommit, as main does.
const asMain = "HEARTH_TEST_OVERCOMMIT"

// There are more places than processors unless somebody has decided; what pools
// follow stays as it was.
func TestOvercommit(t *testing.T) {
	if os.Getenv(asMain) == "" {
		for _, procs := range []string{"", "1"} {
			cmd := exec.Command(os.Args[0], "-test.run=^TestOvercommit$", "-test.v")
			cmd.Env = append(os.Environ(), asMain+"=1", "GOMAXPROCS="+procs)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
		}
		return
	}
	before := cores.Count()
	require.Equal(t, before, runtime.GOMAXPROCS(0))
	cores.Overcommit()
	require.Equal(t, before, cores.Count())
	if os.Getenv("GOMAXPROCS") != "" || runtime.NumCPU() != before {
		require.Equal(t, before, runtime.GOMAXPROCS(0), "somebody has decided")
		return
	}
	require.Equal(t, before+min(before, 8), runtime.GOMAXPROCS(0))
}
