package app

import (
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
)

const (
	// gcPercent trades CPU for memory: most of the heap is series that live for
	// hours. 75 is what Prometheus runs with, for the same kind of heap.
	gcPercent = 75
	// memoryShare of the container's limit is where the collector starts to
	// work harder rather than let the kernel kill the process. The rest is
	// for what Go does not count: mapped blocks and the kernel's buffers.
	memoryShare = 0.9
)

// TuneGC sets the collector's pace for the process, unless the operator has
// decided with GOGC or GOMEMLIMIT. Called once, by main.
func TuneGC(logger *slog.Logger) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	if limit := cgroupLimit("/"); limit > 0 {
		soft := int64(memoryShare * float64(limit))
		debug.SetMemoryLimit(soft)
		logger.Info("memory limit of the container found", "container_bytes", limit, "go_bytes", soft)
	}
}

// cgroupLimit is the memory limit of this process's container in bytes, 0 if
// there is none. It knows cgroup v2 and v1, seen from inside a container
// (files at the top) or from a service of the host (files at the path that
// /proc/self/cgroup tells).
func cgroupLimit(root string) int64 {
	own := "/"
	if text, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup")); err == nil {
		for line := range strings.Lines(string(text)) {
			if p, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
				own = p
			}
		}
	}
	limit := int64(math.MaxInt64)
	for _, file := range []string{
		filepath.Join(root, "sys/fs/cgroup", own, "memory.max"),
		filepath.Join(root, "sys/fs/cgroup/memory.max"),
		filepath.Join(root, "sys/fs/cgroup/memory/memory.limit_in_bytes"),
	} {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && n > 0 {
			limit = min(limit, n)
		}
	}
	if limit > 1<<60 { // cgroup v1 writes "no limit" as a huge number
		return 0
	}
	return limit
}
