package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
)

// machine describes where the figures come from, in one line. The load
// average says whether others were at work on it.
func machine() string {
	memory := "?"
	if kib, err := strconv.ParseFloat(strings.TrimSuffix(procField("/proc/meminfo", "MemTotal"), " kB"), 64); err == nil {
		memory = fmt.Sprintf("%.0f GiB", kib/(1<<20))
	}
	load, _, _ := strings.Cut(readLine("/proc/loadavg"), " ")
	return fmt.Sprintf("machine: %d × %s, %s of memory, Linux %s, load average at the start %s, generator built with %s",
		runtime.NumCPU(), procField("/proc/cpuinfo", "model name"), memory, readLine("/proc/sys/kernel/osrelease"), load, runtime.Version())
}

// procField is the first value of a "name : value" line; "?" when unknown.
func procField(path, name string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return "?"
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return "?"
}

func readLine(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return "?"
	}
	return strings.TrimSpace(string(text))
}
