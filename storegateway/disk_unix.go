//go:build linux || darwin

package storegateway

import "syscall"

// freeDisk is the number of bytes that may still be written where dir is.
func freeDisk(dir string) (int64, bool) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, false
	}
	return int64(st.Bavail) * int64(st.Bsize), true //nolint:unconvert // not an int64 on every system
}
