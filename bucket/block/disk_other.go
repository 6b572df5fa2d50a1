//go:build !linux && !darwin

package block

// FreeDisk does not know on this system.
func FreeDisk(string) (int64, bool) { return 0, false }
