package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// sinkTarget is a sink in a process of its own: this test binary once more.
func sinkTarget(t *testing.T) *Target {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	target, err := parseTarget(fmt.Sprintf(
		"name=sink,cmd=%s %s 127.0.0.1:{port} {store},flush=/flush,store={store},tenants=true,bucket=true", exe, serveSink))
	require.NoError(t, err)
	return target
}

func testBench(t *testing.T, targets ...*Target) *Bench {
	t.Helper()
	names, err := chosen("")
	require.NoError(t, err)
	return &Bench{
		Targets: targets, Figures: names, Scale: 0.0001, Runs: 1, Settle: time.Millisecond, Wait: time.Millisecond,
		Work: t.TempDir(), Out: io.Discard,
	}
}

// All figures of a server that is started, killed and started again, small.
func TestAllFigures(t *testing.T) {
	t.Parallel()
	b := testBench(t, sinkTarget(t))
	report, err := b.Run(t.Context())
	require.NoError(t, err)

	res := report.Results[0]
	require.Equal(t, "0.1", res.Version)
	for figure, name := range map[string]string{
		"write":   "CPU per million samples",
		"tenants": "RAM for each of 10 tenants of 50 series",
		"disk":    "bytes per sample in the bucket",
		"restart": "ready again after SIGKILL",
		"query":   "23 queries, sum of medians, cold",
	} {
		_, ok := res.find(figure, name)
		require.True(t, ok, "%s: %s in %+v", figure, name, res.Measures)
	}
	size, _ := res.find("disk", "bytes per sample in the bucket")
	require.InDelta(t, 1000.0/(200*480), size, 1e-9)
	require.Len(t, res.Latencies, 3*23)

	// The sink forgets when it is killed or started anew, and only then.
	require.NotEmpty(t, res.Notes)
	for _, n := range res.Notes {
		require.Regexp(t, "after the restart|from blocks alone", n)
	}
	left, err := os.ReadDir(b.Work)
	require.NoError(t, err)
	require.Empty(t, left)
}

// A server that runs already is written to and asked, not stopped.
func TestRunningServer(t *testing.T) {
	t.Parallel()
	sink, url := newSink(t)
	file := filepath.Join(t.TempDir(), "figures.json")
	var out bytes.Buffer
	err := run(t.Context(), []string{
		"-hearth", "", "-url", url, "-pid", fmt.Sprint(os.Getpid()), "-name", "here",
		"-only", "restart,query", "-scale", "0.0001", "-short", "-json", file,
	}, &out, io.Discard)
	require.NoError(t, err)
	require.Contains(t, out.String(), "machine: ")
	require.Contains(t, out.String(), "23 queries, sum of medians, memory")
	require.NotContains(t, out.String(), "SIGKILL")
	require.NotContains(t, out.String(), "note:")
	require.Len(t, sink.got["bench"], 1000)

	text, err := os.ReadFile(file)
	require.NoError(t, err)
	var report Report
	require.NoError(t, json.Unmarshal(text, &report))
	require.Contains(t, report.Machine, "load average")
	require.Len(t, report.Results[0].Latencies, 23)
}

// What fails on one target is noted and does not stop the next.
func TestFailedTarget(t *testing.T) {
	t.Parallel()
	broken, err := parseTarget("name=broken,cmd=/bin/false,flush=/flush,store={store}")
	require.NoError(t, err)
	b := testBench(t, broken, sinkTarget(t))
	b.Figures = []string{"disk"}
	report, err := b.Run(t.Context())
	require.ErrorContains(t, err, "broken: start broken: it has stopped")
	require.Contains(t, strings.Join(report.Results[0].Notes, "\n"), "it has stopped")
	_, ok := report.Results[1].find("disk", "bytes per sample in the bucket")
	require.True(t, ok)
}

func TestServerStops(t *testing.T) {
	t.Parallel()
	work := t.TempDir()
	s, err := StartServer(t.Context(), sinkTarget(t), work)
	require.NoError(t, err)
	cpu, err := cpuTime(s.PID)
	require.NoError(t, err)
	require.Less(t, cpu, time.Minute)
	memory, err := anonymous(s.PID)
	require.NoError(t, err)
	require.Greater(t, memory, int64(1<<20))

	before, dir := s.PID, s.Cmd
	require.NoError(t, s.Renew(t.Context()))
	require.NotEqual(t, before, s.PID)
	require.NotEqual(t, dir, s.Cmd)
	require.ErrorIs(t, syscall.Kill(before, 0), syscall.ESRCH)
	require.NoError(t, s.Close())
	require.ErrorIs(t, syscall.Kill(s.PID, 0), syscall.ESRCH)
	left, err := os.ReadDir(work)
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"-only writ -hearth= -url http://x -pid 1": `no figure "writ"`,
		"-hearth=":                      "nothing to measure",
		"-hearth /nowhere/hearth":       "build it with make",
		"-hearth= -url http://x":        "pid of the running server",
		"-hearth= -peer vm=/bin/vm":     "want fields like",
		"-hearth= -peer name=a,push=/w": "pid of the running server",
		"-hearth= -peer pid=x":          "invalid syntax",
		"-hearth= -peer pid=7,push=/w":  "no URL to write to",
		"write":                         "Everything is a flag",
	} {
		err := run(t.Context(), strings.Fields(args), io.Discard, io.Discard)
		require.ErrorContains(t, err, want, args)
	}
}
