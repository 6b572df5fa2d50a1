//go:build linux || darwin

package block

import "syscall"

// FreeDisk is the number of bytes that may still be written where dir is; ok
// is false where that is not known.
func FreeDisk(dir string) (n int64, ok bool) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, false
	}
	return int64(st.Bavail) * int64(st.Bsize), true //nolint:unconvert // its size differs between systems
}
