package cores_test

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// niceOf is that of the calling thread. The system call gives 20 minus it.
func niceOf(t *testing.T) int {
	t.Helper()
	p, err := syscall.Getpriority(syscall.PRIO_PROCESS, syscall.Gettid())
	require.NoError(t, err)
	return 20 - p
}
