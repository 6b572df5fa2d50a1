package app

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

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
