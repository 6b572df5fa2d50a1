package e2e

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// smallDisk makes a folder that is a disk of its own. It has room for the file
// that a cut takes at first, which is 512 MiB.
func smallDisk(t testing.TB, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=800m"); err != nil {
		t.Skipf("a small disk cannot be mounted: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
}

func (n *node) filler() string { return filepath.Join(n.dir, "filler") }

// fill takes all room on a node's disk.
func (n *node) fill() {
	n.t.Helper()
	f, err := os.Create(n.filler())
	if err != nil {
		n.t.Fatal(err)
	}
	defer f.Close()
	for size := int64(1 << 30); size > 4096; size /= 2 { // what is left, from large to small
		for err == nil {
			var info os.FileInfo
			if info, err = f.Stat(); err == nil {
				err = syscall.Fallocate(int(f.Fd()), 0, info.Size(), size)
			}
		}
		if !errors.Is(err, syscall.ENOSPC) {
			n.t.Fatalf("fill the disk of %s: %v", n.name, err)
		}
		err = nil
	}
	for err == nil {
		_, err = f.WriteAt(make([]byte, 4096), mustSize(n.t, f))
	}
}

func mustSize(t testing.TB, f *os.File) int64 {
	t.Helper()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

func (n *node) empty() {
	n.t.Helper()
	if err := os.Remove(n.filler()); err != nil {
		n.t.Fatal(err)
	}
}
