//go:build !e2e

package e2e

// long says that tests may take minutes.
const long = false
