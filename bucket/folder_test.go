package bucket

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// counterDirEnv makes the test's program one of several processes that count
// in a folder.
const counterDirEnv = "HEARTH_TEST_COUNTER_DIR"

const countEach = 50

func countInFolder(dir string) int {
	f, err := newFolder(dir)
	for i := 0; err == nil && i < countEach; i++ {
		err = increment(context.Background(), f, "a/n")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func TestFolderBetweenProcesses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program, err := os.Executable()
	require.NoError(t, err)
	const processes = 4
	var wg sync.WaitGroup
	for range processes {
		wg.Go(func() {
			cmd := exec.Command(program)
			cmd.Env = append(os.Environ(), counterDirEnv+"="+dir)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
	wg.Wait()
	require.Equal(t, strconv.Itoa(processes*countEach), get(t, openFolder(t, dir), "a/n"))
}

func TestFolderLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := openFolder(t, dir)
	put(t, b, "a/b/c/d", "x")
	put(t, b, "a/e", "x")
	require.NoError(t, b.Delete(t.Context(), "a/b/c/d"))
	require.NoDirExists(t, filepath.Join(dir, "a", "b"))
	require.FileExists(t, filepath.Join(dir, "a", "e"))
	require.NoError(t, b.Delete(t.Context(), "a/e"))
	require.NoDirExists(t, filepath.Join(dir, "a"))
	_, err := b.Put(t.Context(), "short", errReader{}, 1, Condition{})
	require.ErrorIs(t, err, errRead)
	_, err = putIf(b, "k", "x", Condition{IfMatch: "other"})
	require.ErrorIs(t, err, ErrPrecondition)
	temps, err := os.ReadDir(filepath.Join(dir, hiddenDir, "tmp"))
	require.NoError(t, err)
	require.Empty(t, temps)
}

var errRead = errors.New("cannot read")

type errReader struct{}

func (errReader) Read([]byte) (int, error)       { return 0, errRead }
func (errReader) Seek(int64, int) (int64, error) { return 0, nil }

func TestFolderEmptyDirectoryIsNoFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := openFolder(t, dir)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "empty", "inside"), 0o777))
	require.Empty(t, list(t, b, "", false))
	require.NoError(t, b.Delete(t.Context(), "empty/inside"))
	require.DirExists(t, filepath.Join(dir, "empty", "inside"), "a directory is no object to delete")
}

func TestFolderRemovesStaleTemps(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	openFolder(t, dir)
	stale, fresh := filepath.Join(dir, hiddenDir, "tmp", "stale"), filepath.Join(dir, hiddenDir, "tmp", "fresh")
	require.NoError(t, os.WriteFile(stale, nil, 0o666))
	require.NoError(t, os.WriteFile(fresh, nil, 0o666))
	long := time.Now().Add(-2 * staleTemp)
	require.NoError(t, os.Chtimes(stale, long, long))
	openFolder(t, dir)
	require.NoFileExists(t, stale)
	require.FileExists(t, fresh)
}

// TestFolderNeighbours puts and deletes in one directory at once: Delete
// removes the directory while Put renames into it.
func TestFolderNeighbours(t *testing.T) {
	t.Parallel()
	b := openFolder(t, t.TempDir())
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for n := range 50 {
				key := Key(fmt.Sprintf("a/b/%d", i))
				_, err := putIf(b, key, strconv.Itoa(n), Condition{})
				if err == nil {
					_, err = b.Stat(context.Background(), key)
				}
				if err == nil {
					err = b.Delete(context.Background(), key)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	require.Empty(t, list(t, b, "", true))
}

// TestFolderClockGoesBack writes over an object that is from the future.
func TestFolderClockGoesBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	b := openFolder(t, dir)
	put(t, b, "k", "1")
	future := time.Now().Add(time.Hour)
	require.NoError(t, os.Chtimes(filepath.Join(dir, "k"), future, future))
	before, err := b.Stat(t.Context(), "k")
	require.NoError(t, err)
	etag := put(t, b, "k", "2")
	after, err := b.Stat(t.Context(), "k")
	require.NoError(t, err)
	require.Equal(t, etag, after.ETag)
	require.True(t, after.Modified.After(before.Modified))
}

// TestFolderLockWaitIsBounded has another process hold the lock, as far as the
// kernel is concerned.
func TestFolderLockWaitIsBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f, err := newFolder(dir)
	require.NoError(t, err)
	other, err := newFolder(dir)
	require.NoError(t, err)
	release, err := other.lock("k").acquire(t.Context())
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = f.Put(ctx, "k", errReader{}, 0, Condition{})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	release()
	_, err = putIf(f, "k", "x", Condition{})
	require.NoError(t, err)
}
