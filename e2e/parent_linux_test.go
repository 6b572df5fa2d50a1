package e2e

import "syscall"

// dieWithParent has the kernel kill the child when this process is gone, even
// when it was killed itself.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
