//go:build !linux

package e2e

import "syscall"

// dieWithParent changes nothing: only Linux knows how.
func dieWithParent() *syscall.SysProcAttr { return nil }
