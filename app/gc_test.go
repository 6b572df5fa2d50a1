package app

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	rtmetrics "runtime/metrics"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A small heap may grow by more than its percentage, a large one by that.
func TestPercentFor(t *testing.T) {
	for _, tc := range []struct{ live, want int64 }{
		{0, maxGCPercent}, {10 << 20, maxGCPercent}, {50 << 20, 500}, {51 << 20, 500}, {100 << 20, 250}, {200 << 20, 125}, {gcRoom, 100}, {1 << 30, gcPercent}, {1 << 50, gcPercent},
	} {
		require.EqualValues(t, tc.want, percentFor(gcRoom, tc.live), tc.live)
	}
	require.Equal(t, gcPercent, percentFor(0, 10<<20))
}

// asMain makes TestLeaveRoom a process that has a collector of its own.
const asMain = "HEARTH_TEST_LEAVE_ROOM"

// The percentage follows the heap.
func TestLeaveRoom(t *testing.T) {
	if os.Getenv(asMain) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestLeaveRoom$")
		cmd.Env = append(os.Environ(), asMain+"=1")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return
	}
	leaveRoom(64 << 20)
	percent := func() uint64 {
		runtime.GC()
		s := []rtmetrics.Sample{{Name: "/gc/gogc:percent"}}
		rtmetrics.Read(s)
		return s[0].Value.Uint64()
	}
	require.Eventually(t, func() bool { return percent() == maxGCPercent }, 10*time.Second, time.Millisecond)
	large := make([]byte, 40<<20)
	require.Eventually(t, func() bool { p := percent(); return gcPercent < p && p <= 160 }, 10*time.Second, time.Millisecond)
	larger := make([]byte, 400<<20)
	require.Eventually(t, func() bool { return percent() == gcPercent }, 10*time.Second, time.Millisecond)
	runtime.KeepAlive(large)
	runtime.KeepAlive(larger)
	require.Eventually(t, func() bool { return percent() == maxGCPercent }, 10*time.Second, time.Millisecond)
}

func TestMemoryOf(t *testing.T) {
	for name, tc := range map[string]struct {
		files map[string]string
		want  int64
	}{
		"nothing to be known":        {nil, 0},
		"no cgroups":                 {map[string]string{"proc/meminfo": "MemTotal:        2000 kB\nMemFree:          10 kB\n"}, 2_048_000},
		"a container of a machine":   {map[string]string{"proc/meminfo": "MemTotal: 2000 kB\n", "sys/fs/cgroup/memory.max": "1000\n"}, 1000},
		"v2, inside a container":     {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1000\n"}, 1000},
		"v2, without a limit":        {map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, 0},
		"v2, a service of the host":  {map[string]string{"proc/self/cgroup": "0::/system.slice/h\n", "sys/fs/cgroup/system.slice/h/memory.max": "2000\n"}, 2000},
		"v1":                         {map[string]string{"proc/self/cgroup": "4:memory:/x\n", "sys/fs/cgroup/memory/memory.limit_in_bytes": "3000\n"}, 3000},
		"v1, without a limit":        {map[string]string{"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 0},
		"the smaller one if nested":  {map[string]string{"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "500\n", "sys/fs/cgroup/memory.max": "400\n"}, 400},
		"something else in the file": {map[string]string{"sys/fs/cgroup/memory.max": "lots\n"}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			for file, text := range tc.files {
				file = filepath.Join(root, file)
				require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
				require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
			}
			require.Equal(t, tc.want, memoryOf(root))
		})
	}
}
