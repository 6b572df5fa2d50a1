package buckettest

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestHearthHasNoProps keeps what is for tests out of the program: the map in
// README.md cannot say that only the tests of a package may import something.
func TestHearthHasNoProps(t *testing.T) {
	t.Parallel()
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "../../cmd/hearth", "../../bench")
	out, err := list.Output()
	require.NoError(t, err)
	deps := strings.Fields(string(out))
	require.Contains(t, deps, "github.com/hearth-metrics/hearth/bucket")
	require.NotContains(t, deps, "github.com/hearth-metrics/hearth/bucket/buckettest")
}

// TestMakeOnce has many want the same file at once. The one that makes it
// fails at first: then the next one does.
func TestMakeOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "cache", "program")
	fail := errors.New("it does not compile")
	var builds, failures atomic.Int64
	build := func(temp string) error {
		require.NoError(t, os.WriteFile(temp, []byte("half"), 0o600))
		if builds.Add(1) == 1 {
			return fail
		}
		return os.WriteFile(temp, []byte("whole"), 0o600)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			err := makeOnce(path, build)
			if err != nil {
				require.ErrorIs(t, err, fail)
				failures.Add(1)
				return
			}
			content, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, "whole", string(content))
		})
	}
	wg.Wait()
	require.EqualValues(t, 2, builds.Load())
	require.EqualValues(t, 1, failures.Load())
	left, err := filepath.Glob(filepath.Join(dir, "cache", "*"))
	require.NoError(t, err)
	require.Equal(t, []string{path, path + ".lock"}, left)
}

// TestDoor opens and shuts a door: refused or let in, always at the same
// address.
func TestDoor(t *testing.T) {
	t.Parallel()
	d, err := newDoor()
	require.NoError(t, err)
	defer func() { require.NoError(t, d.free()) }()
	addr := d.addr()
	for range 3 {
		_, err := net.Dial("tcp", addr)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		l, err := d.open()
		require.NoError(t, err)
		conn, err := net.DialTimeout("tcp", addr, time.Minute)
		require.NoError(t, err)
		accepted, err := l.Accept()
		require.NoError(t, err)
		require.NoError(t, accepted.Close())
		require.NoError(t, conn.Close())
		require.NoError(t, l.Close())
		require.NoError(t, d.shut())
		require.Equal(t, addr, d.addr())
	}
}
