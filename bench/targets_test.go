package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseTarget(t *testing.T) {
	t.Parallel()
	f := func(text string, want Target) {
		t.Helper()
		got, err := parseTarget(text)
		require.NoError(t, err, text)
		require.Equal(t, want, *got, text)
	}
	f("name=vm,cmd=/bin/vm -a=b,c -dir={dir},push=http://127.0.0.1:{port}/w,query=/select/0/prometheus,store={dir}/data", Target{
		Name: "vm", Cmd: []string{"/bin/vm", "-a=b,c", "-dir={dir}"}, URL: "http://127.0.0.1:{port}",
		Push: "http://127.0.0.1:{port}/w", Query: "http://127.0.0.1:{port}/select/0/prometheus",
		Ready: "http://127.0.0.1:{port}/ready", Store: "{dir}/data",
	})
	f("url=http://h:1/,pid=12,push=/insert/{tenant}/prometheus,tenants=true", Target{
		Name: "http://h:1/", PID: 12, URL: "http://h:1/",
		Push: "http://h:1/insert/{tenant}/prometheus", Query: "http://h:1", Multi: true,
	})
	vm := victoriaMetricsPreset("/opt/vm")
	f("victoriametrics=/opt/vm,name=other", Target{
		Name: "other", Cmd: vm.Cmd, URL: "http://127.0.0.1:{port}",
		Push: "http://127.0.0.1:{port}/api/v1/write", Query: "http://127.0.0.1:{port}",
		Ready: "http://127.0.0.1:{port}/health", Flush: "http://127.0.0.1:{port}/internal/force_flush", Store: "{dir}/data",
	})
}

func TestPresetsAreComplete(t *testing.T) {
	t.Parallel()
	for _, name := range presetNames() {
		target, err := parseTarget(name + "=/bin/server")
		require.NoError(t, err)
		got := target.expand(strings.NewReplacer("{port}", "1", "{port2}", "2", "{dir}", "/d", "{store}", "/s"))
		require.NotContains(t, strings.Join(append(got.Cmd, got.Push, got.Query, got.Ready, got.Flush, got.Store), " "), "{")
		require.Equal(t, name, got.Name)
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	r := &Report{
		Machine: "machine: m", How: "how: h", Started: time.Unix(0, 0).UTC(),
		Results: []Result{
			{Target: "hearth", Version: "1", Measures: []Measure{{Figure: "write", Name: "CPU", Unit: "s", Value: 1.2}, {Figure: "query", Name: "cold", Unit: "ms", Value: 1234}}},
			{Target: "other", Measures: []Measure{{Figure: "write", Name: "CPU", Unit: "s", Value: 6}, {Figure: "write", Name: "heap", Unit: "KiB", Value: 12.34, Detail: true}}, Notes: []string{"it lost 3"}},
		},
	}
	var out bytes.Buffer
	require.NoError(t, r.WriteTable(&out))
	var lines []string
	for line := range strings.Lines(out.String()) {
		if line = strings.Join(strings.Fields(line), " "); line != "" {
			lines = append(lines, line)
		}
	}
	require.Equal(t, []string{
		"machine: m", "how: h", "1970-01-01T00:00:00Z", "hearth other",
		"write", "CPU s 1.20 6.00 (5.00×)", "heap KiB – 12.3",
		"query", "cold ms 1234 –",
		"note: other: it lost 3",
	}, lines)
}
