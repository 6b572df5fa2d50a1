package app

import (
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	rtmetrics "runtime/metrics"
	"strconv"
	"strings"
)

const (
	// gcPercent trades CPU for memory: most of the heap is series that live for
	// hours. 75 is what Prometheus runs with, for the same kind of heap.
	gcPercent = 75
	// gcRoom is how many bytes can be allocated from one collection to the next at
	// least, as far as that is a small part of the memory there is: a burst of
	// requests soon fills what 75% of a small heap are, and then all who allocate
	// have to help the collector, whosever the burst was.
	gcRoom      = 256 << 20
	gcRoomShare = 1.0 / 64
	// maxGCPercent is for heaps that are smaller still.
	maxGCPercent = 1000
	// memoryShare of the memory there is, is where the collector starts to work
	// harder rather than let the kernel kill the process. The rest is for what
	// Go does not count: mapped blocks and the kernel's buffers. The ingester
	// refuses new series in time before that.
	memoryShare = 0.9
)

// TuneGC sets the collector's pace for the process, unless the operator has
// decided with GOGC or GOMEMLIMIT. Called once, by main.
func TuneGC(logger *slog.Logger) {
	if os.Getenv("GOMEMLIMIT") == "" {
		if limit := memoryOf("/"); limit > 0 {
			soft := int64(memoryShare * float64(limit))
			debug.SetMemoryLimit(soft)
			logger.Info("memory found", "bytes", limit, "go_bytes", soft)
		}
	}
	if os.Getenv("GOGC") == "" {
		leaveRoom(min(gcRoom, int64(gcRoomShare*float64(debug.SetMemoryLimit(-1)))))
	}
}

// leaveRoom sets the collector's percentage, now and after each collection.
func leaveRoom(room int64) {
	percent := gcPercent
	debug.SetGCPercent(percent)
	live := []rtmetrics.Sample{{Name: "/gc/heap/live:bytes"}}
	var collected func(*[64]byte)
	collected = func(garbage *[64]byte) {
		rtmetrics.Read(live)
		if p := percentFor(room, int64(live[0].Value.Uint64())); p != percent { // it stops the world
			percent = p
			debug.SetGCPercent(p)
		}
		runtime.SetFinalizer(garbage, collected)
	}
	runtime.SetFinalizer(new([64]byte), collected)
}

// percentFor is how much a heap may grow that has so many live bytes, in steps.
func percentFor(room, live int64) int {
	const step = 25
	return int(min(max(gcPercent, 100*room/max(live, 1)/step*step), maxGCPercent))
}

// memoryOf is how much memory this process may use, in bytes: that of its
// container, or of the machine; 0 if that cannot be known. It knows cgroup v2
// and v1, seen from inside a container (files at the top) or from a service of
// the host (files at the path that /proc/self/cgroup tells).
func memoryOf(root string) int64 {
	own := "/"
	if text, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup")); err == nil {
		for line := range strings.Lines(string(text)) {
			if p, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
				own = p
			}
		}
	}
	limit := machineMemory(root)
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

func machineMemory(root string) int64 {
	text, _ := os.ReadFile(filepath.Join(root, "proc/meminfo"))
	for line := range strings.Lines(string(text)) {
		var kib int64
		if n, _ := fmt.Sscanf(line, "MemTotal: %d kB", &kib); n == 1 {
			return kib << 10
		}
	}
	return math.MaxInt64
}
