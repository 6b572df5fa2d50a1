package main

import (
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Target is a server to measure, seen from outside: where to write, where to
// query, and either how to start it or which process it is.
//
// In Cmd and in the URLs {port}, {port2} are free ports, {dir} is a fresh
// folder, {store} one that outlives {dir} (object storage), and {tenant} in
// Push the number of the tenant, for servers that have it in the path.
type Target struct {
	Name   string
	Cmd    []string // program and arguments; none: it runs already
	PID    int      // of a server that runs already
	URL    string   // what paths below are relative to
	Push   string   // remote write
	Query  string   // what comes before /api/v1/query
	Ready  string   // answers 200 when the server serves
	Flush  string   // POST: bring everything into Store; none: cannot
	Store  string   // folder whose size counts as stored
	Multi  bool     // keeps tenants apart by X-Scope-OrgID or path
	Bucket bool     // can be started anew from Store alone
}

// presets know how to start servers for this comparison: nothing that would
// not be the user's choice as well, except that caches of whole answers are
// off, because queries are repeated.
var presets = map[string]func(bin string) Target{
	"hearth":          hearthPreset,
	"prometheus":      prometheusPreset,
	"victoriametrics": victoriaMetricsPreset,
}

// hearthPreset lifts the rate limit, which is checked all the same: the
// default would hold back the figures this program is for.
func hearthPreset(bin string) Target {
	return Target{
		Cmd: []string{
			bin,
			"-set", "data_dir={dir}",
			"-set", "bucket.type=filesystem",
			"-set", "bucket.filesystem.dir={store}",
			"-set", "server.http_listen_address=127.0.0.1:{port}",
			"-set", "server.grpc_listen_address=127.0.0.1:{port2}",
			"-set", "limits.defaults.ingestion_rate=1e9",
			"-set", "limits.defaults.ingestion_burst_size=1000000000",
		},
		Push: "/api/v1/push", Query: "/prometheus", Ready: "/ready",
		Flush: "/ingester/flush?wait=true", Store: "{store}",
		Multi: true, Bucket: true,
	}
}

func prometheusPreset(bin string) Target {
	return Target{
		Cmd: []string{
			bin,
			"--config.file=/dev/null",
			"--storage.tsdb.path={dir}",
			"--web.listen-address=127.0.0.1:{port}",
			"--web.enable-remote-write-receiver",
			"--web.enable-admin-api",
			"--log.level=warn",
		},
		Push: "/api/v1/write", Query: "/", Ready: "/-/ready",
		Flush: "/api/v1/admin/tsdb/snapshot", Store: "{dir}/snapshots",
	}
}

func victoriaMetricsPreset(bin string) Target {
	return Target{
		Cmd: []string{
			bin,
			"-storageDataPath={dir}",
			"-httpListenAddr=127.0.0.1:{port}",
			"-search.disableCache",
			"-search.latencyOffset=0s",
			"-loggerLevel=WARN",
		},
		Push: "/api/v1/write", Query: "/", Ready: "/health",
		Flush: "/internal/force_flush", Store: "{dir}/data",
	}
}

// fieldStart finds where a field of a target begins, so that the text of a
// field may hold commas.
var fieldStart = regexp.MustCompile(`(?:^|,)(name|cmd|pid|url|push|query|ready|flush|store|tenants|bucket)=`)

// parseTarget reads name=...,cmd=...,push=... or PRESET=/path/to/program,
// which may be followed by fields that differ from the preset.
func parseTarget(text string) (*Target, error) {
	t := &Target{}
	if name, rest, ok := strings.Cut(text, "="); ok && presets[name] != nil {
		bin, fields, _ := strings.Cut(rest, ",")
		*t = presets[name](bin)
		t.Name, text = name, fields
	}
	starts := fieldStart.FindAllStringSubmatchIndex(text, -1)
	if text != "" && (len(starts) == 0 || starts[0][0] != 0) {
		return nil, fmt.Errorf("target %q: want fields like name=..,cmd=..,push=..,query=.. or one of %s=/path/to/program",
			text, strings.Join(presetNames(), ", "))
	}
	for i, m := range starts {
		end := len(text)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		if err := t.set(text[m[2]:m[3]], text[m[1]:end]); err != nil {
			return nil, fmt.Errorf("target %q: %w", text, err)
		}
	}
	return t, t.complete()
}

func presetNames() []string {
	names := make([]string, 0, len(presets))
	for name := range presets {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (t *Target) set(key, value string) (err error) {
	switch key {
	case "name":
		t.Name = value
	case "cmd":
		t.Cmd = strings.Fields(value)
	case "pid":
		t.PID, err = strconv.Atoi(value)
	case "url":
		t.URL = value
	case "push":
		t.Push = value
	case "query":
		t.Query = value
	case "ready":
		t.Ready = value
	case "flush":
		t.Flush = value
	case "store":
		t.Store = value
	case "tenants":
		t.Multi, err = strconv.ParseBool(value)
	case "bucket":
		t.Bucket, err = strconv.ParseBool(value)
	}
	return err
}

// complete fills in what can be known and refuses what cannot be measured.
func (t *Target) complete() error {
	if t.URL == "" && len(t.Cmd) > 0 {
		t.URL = "http://127.0.0.1:{port}"
	}
	if t.Name == "" {
		t.Name = t.URL
	}
	if t.Push == "" {
		t.Push = "/api/v1/write"
	}
	if t.Query == "" {
		t.Query = "/"
	}
	if len(t.Cmd) > 0 && t.Ready == "" {
		t.Ready = "/ready"
	}
	for _, u := range []*string{&t.Push, &t.Query, &t.Ready, &t.Flush} {
		if strings.HasPrefix(*u, "/") {
			*u = strings.TrimSuffix(strings.TrimSuffix(t.URL, "/")+*u, "/")
		}
	}
	if len(t.Cmd) == 0 && t.PID <= 0 {
		return fmt.Errorf("target %s: give a cmd to start it, or the pid of the running server", t.Name)
	}
	if u, err := url.Parse(strings.NewReplacer("{port}", "1", "{port2}", "2", "{tenant}", "0").Replace(t.Push)); err != nil || u.Host == "" {
		return fmt.Errorf("target %s: no URL to write to: %q", t.Name, t.Push)
	}
	return nil
}

// expand returns the target with placeholders replaced.
func (t *Target) expand(r *strings.Replacer) *Target {
	out := *t
	out.Cmd = make([]string, len(t.Cmd))
	for i, arg := range t.Cmd {
		out.Cmd[i] = r.Replace(arg)
	}
	for _, s := range []*string{&out.URL, &out.Push, &out.Query, &out.Ready, &out.Flush, &out.Store} {
		*s = r.Replace(*s)
	}
	return &out
}
