//go:build !linux

package cores

// lowering does nothing where a thread has no priority of its own.
func lowering() (lower func()) { return func() {} }
