package app

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"
)

// update makes the tests below write the files that they otherwise compare:
// `make docs`.
var update = flag.Bool("update", false, "write the generated documents")

const generated = "<!-- Generated from the code by `make docs`. Edit the comments there. -->\n\n"

// golden compares text with a file, or writes the file.
func golden(t *testing.T, file, text string) {
	t.Helper()
	if *update {
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
		return
	}
	have, err := os.ReadFile(file)
	require.NoError(t, err, "run `make docs`")
	require.Equal(t, string(have), text, "%s is not current, run `make docs`", file)
}

func TestRoutesDocument(t *testing.T) {
	var out strings.Builder
	for _, r := range build(t, testConfig(t)).Routes() {
		methods := strings.Join(r.Methods, ",")
		if methods == "" {
			methods = "*"
		}
		fmt.Fprintf(&out, "%-16s %-48s %s\n", methods, r.Path, r.Scope)
	}
	golden(t, "testdata/routes.txt", out.String())
}

func TestConfigDocument(t *testing.T) {
	var out strings.Builder
	out.WriteString(generated + configIntro)
	cfg := reflect.ValueOf(DefaultConfig())
	out.WriteString("## Top level\n\n" + tableHead)
	for name, f := range fieldsOf(cfg.Type()) {
		if isLeaf(f.Type) {
			writeKey(t, &out, cfg.Type(), name, f, cfg)
		}
	}
	for name, f := range fieldsOf(cfg.Type()) {
		if isLeaf(f.Type) {
			continue
		}
		fmt.Fprintf(&out, "\n## `%s`\n\n%s\n\n%s", name, typeComment(t, f.Type), tableHead)
		writeKeys(t, &out, name, cfg.FieldByIndex(f.Index))
	}
	golden(t, "../docs/config.md", out.String())
}

const configIntro = `# Configuration

One YAML file, given with ` + "`-config FILE`" + `, mirrors the packages. Nothing in it is required: every key has a default, and Hearth runs without a file.

- ` + "`-set path=value`" + ` sets one key on top of the file, as often as needed. The path has dots between levels, the value is YAML:
  ` + "`-set server.http_listen_address=:9009`, `-set 'limits.tenants.acme={max_series: 50000}'`" + `. A part of the path that has dots itself stands in double quotes.
- ` + "`-target LIST` and `-log.level LEVEL`" + ` are short for ` + "`-set target=...` and `-set log.level=...`" + `.
- ` + "`${NAME}`" + ` in a value of the file is replaced by the environment variable; one that is not set is an error. ` + "`$$`" + ` is a dollar sign. Inside ` + "`{...}` and `[...]`" + ` quote it: ` + "`{dir: \"${NAME}\"}`" + `.
- A key that does not exist is an error that names the nearest one that does. A key without a value keeps its default.
- ` + "`-print-config`" + ` shows what would be used, secrets masked. A running Hearth shows it at ` + "`/config`, and at `/config?mode=diff`" + ` what differs from the defaults.
- A tenant below ` + "`limits.tenants`" + ` starts from ` + "`limits.defaults`" + `: write only what differs. The value 0 of a limit means "no limit" unless it says otherwise.
- Durations are written as in Prometheus: 30s, 5m, 2h, 1d. Sizes are bytes.

Two more things come from the environment, as in every Go program: ` + "`GOGC`" + ` (default here: 75, and more in a small heap, so that 256 MiB or 1/64 of the memory can be allocated between collections) and ` + "`GOMEMLIMIT`" + ` (default here: 90% of the memory of the container, or of the machine).

`

const tableHead = "| key | type | default | meaning |\n|---|---|---|---|\n"

func writeKeys(t *testing.T, out *strings.Builder, path string, v reflect.Value) {
	t.Helper()
	for name, f := range fieldsOf(v.Type()) {
		p := join(path, name)
		switch {
		case isLeaf(f.Type):
			writeKey(t, out, v.Type(), p, f, v)
		case f.Type.Kind() == reflect.Map:
			fmt.Fprintf(out, "| `%s` | %s | | %s |\n", p+"."+placeholder(f.Type), mapType(f.Type), cell(mapComment(t, v.Type(), f)))
		case f.Type.Kind() == reflect.Slice:
			writeKey(t, out, v.Type(), p, f, v)
			if item := f.Type.Elem(); item.Kind() == reflect.Struct {
				writeKeys(t, out, p+"[]", reflect.New(item).Elem())
			}
		default:
			writeKeys(t, out, p, v.FieldByIndex(f.Index))
		}
	}
}

func writeKey(t *testing.T, out *strings.Builder, owner reflect.Type, path string, f reflect.StructField, v reflect.Value) {
	t.Helper()
	// A field without a comment says all in its name.
	comment := regexp.MustCompile(`^`+f.Name+` (is|are|says) `).ReplaceAllString(fieldComments(t, owner)[f.Name], "")
	fmt.Fprintf(out, "| `%s` | %s | %s | %s |\n", path, shortType(f.Type), defaultText(v.FieldByIndex(f.Index)), cell(comment))
}

func mapType(t reflect.Type) string {
	if isLeaf(t.Elem()) {
		return shortType(t.Elem())
	}
	return "section"
}

func mapComment(t *testing.T, owner reflect.Type, f reflect.StructField) string {
	t.Helper()
	if c := fieldComments(t, owner)[f.Name]; c != "" {
		return c
	}
	return "the same keys as `limits.defaults`, for one tenant"
}

func shortType(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[model.Duration](), t == reflect.TypeFor[time.Duration]():
		return "duration"
	case t.Kind() == reflect.Bool:
		return "boolean"
	case t.Kind() == reflect.Slice:
		return "list"
	case t.Kind() == reflect.String && strings.HasSuffix(t.Name(), "Secret"):
		return "secret"
	case t.Kind() == reflect.String:
		return "text"
	default:
		return "number"
	}
}

func defaultText(v reflect.Value) string {
	switch text := fmt.Sprint(v.Interface()); {
	case text == "" || text == "[]":
		return ""
	case v.Kind() == reflect.Float64:
		return fmt.Sprintf("`%d`", int64(v.Float()))
	default:
		return "`" + text + "`"
	}
}

func cell(text string) string { return strings.ReplaceAll(text, "|", `\|`) }

// sources holds the parsed files of a package of this repository.
var sources = struct {
	byPkg map[string][]*ast.File
	mu    sync.Mutex
}{byPkg: map[string][]*ast.File{}}

func sourceOf(t *testing.T, pkg string) []*ast.File {
	t.Helper()
	sources.mu.Lock()
	defer sources.mu.Unlock()
	if files, ok := sources.byPkg[pkg]; ok {
		return files
	}
	dir := filepath.Join("..", strings.TrimPrefix(pkg, "github.com/hearth-metrics/hearth/"))
	names, err := filepath.Glob(filepath.Join(dir, "*.go"))
	require.NoError(t, err)
	var files []*ast.File
	for _, n := range names {
		if strings.HasSuffix(n, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), n, nil, parser.ParseComments|parser.SkipObjectResolution)
		require.NoError(t, err)
		files = append(files, f)
	}
	sources.byPkg[pkg] = files
	return files
}

// structOf finds a type's declaration, with the comment above it.
func structOf(t *testing.T, typ reflect.Type) (*ast.StructType, string) {
	t.Helper()
	for _, f := range sourceOf(t, typ.PkgPath()) {
		for _, decl := range f.Decls {
			g, ok := decl.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, spec := range g.Specs {
				ts, ok := spec.(*ast.TypeSpec)
				if !ok || ts.Name.Name != typ.Name() {
					continue
				}
				s, ok := ts.Type.(*ast.StructType)
				require.True(t, ok, "%s is not a struct", typ)
				return s, g.Doc.Text()
			}
		}
	}
	t.Fatalf("the source of %s was not found", typ)
	return nil, ""
}

// typeComment is the comment of a config type, without Go's "X is" in front.
func typeComment(t *testing.T, typ reflect.Type) string {
	t.Helper()
	_, doc := structOf(t, typ)
	require.NotEmpty(t, doc, "%s has no comment", typ)
	text := oneLine(regexp.MustCompile(`^\w+ ((is|are|says) )?`).ReplaceAllString(doc, ""))
	return strings.ToUpper(text[:1]) + text[1:]
}

func fieldComments(t *testing.T, typ reflect.Type) map[string]string {
	t.Helper()
	s, _ := structOf(t, typ)
	m := map[string]string{}
	for _, f := range s.Fields.List {
		for _, n := range f.Names {
			text := f.Comment.Text()
			if text == "" {
				text = f.Doc.Text()
			}
			m[n.Name] = oneLine(text)
		}
	}
	return m
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// describer is a registry that remembers what is registered, so that metrics
// without a series yet can be documented too.
type describer struct {
	*prometheus.Registry
	mu      sync.Mutex
	metrics map[string]described
}

type described struct{ kind, labels, help string }

var descPattern = regexp.MustCompile(`^Desc\{fqName: "([^"]*)", help: "((?:[^"\\]|\\.)*)", unit: "[^"]*", constLabels: \{(.*)\}, variableLabels: \{(.*)\}\}$`)

func (d *describer) Register(c prometheus.Collector) error {
	d.remember(c)
	return d.Registry.Register(c)
}

func (d *describer) MustRegister(cs ...prometheus.Collector) {
	for _, c := range cs {
		d.remember(c)
	}
	d.Registry.MustRegister(cs...)
}

func (d *describer) remember(c prometheus.Collector) {
	descs := make(chan *prometheus.Desc)
	go func() { c.Describe(descs); close(descs) }()
	d.mu.Lock()
	defer d.mu.Unlock()
	for desc := range descs {
		if m := descPattern.FindStringSubmatch(desc.String()); m != nil {
			d.metrics[m[1]] = described{kind: kindOf(c), labels: strings.ReplaceAll(m[4], ",", ", "), help: strings.ReplaceAll(m[2], `\"`, `"`)}
		}
	}
}

// kindOf goes by the type: "" for a collector that makes its metrics when
// asked, whose kind gathering tells.
func kindOf(c prometheus.Collector) string {
	name := reflect.TypeOf(c).String()
	for _, kind := range []string{"Histogram", "Counter", "Gauge", "Summary"} {
		if strings.Contains(strings.ToLower(name), strings.ToLower(kind)) {
			return strings.ToLower(kind)
		}
	}
	return ""
}

func labelNames(m *dto.Metric) string {
	var names []string
	for _, l := range m.GetLabel() {
		names = append(names, l.GetName())
	}
	return strings.Join(names, ", ")
}

func TestMetricsDocument(t *testing.T) {
	reg := &describer{Registry: prometheus.NewRegistry(), metrics: map[string]described{}}
	a, err := newApp(testConfig(t), discard(), reg)
	require.NoError(t, err)
	require.NoError(t, a.Start(t.Context()))
	families, err := reg.Gather()
	require.NoError(t, err)
	require.NoError(t, a.Stop())
	for _, f := range families {
		m := reg.metrics[f.GetName()]
		m.kind, m.help = strings.ToLower(f.GetType().String()), f.GetHelp()
		if m.labels == "" {
			m.labels = labelNames(f.GetMetric()[0])
		}
		reg.metrics[f.GetName()] = m
	}

	var out strings.Builder
	out.WriteString(generated + metricsIntro)
	section := ""
	for _, name := range slices.Sorted(maps.Keys(reg.metrics)) {
		rest, ours := strings.CutPrefix(name, "hearth_")
		if !ours {
			continue
		}
		m := reg.metrics[name]
		require.NotEmpty(t, m.help, "%s has no help text", name)
		if s, _, _ := strings.Cut(rest, "_"); s != section {
			section = s
			fmt.Fprintf(&out, "\n## %s\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n", section)
		}
		fmt.Fprintf(&out, "| `%s` | %s | %s | %s |\n", name, m.kind, m.labels, cell(oneLine(m.help)))
	}
	golden(t, "../docs/metrics.md", out.String())
}

const metricsIntro = `# Metrics

What a Hearth process tells at ` + "`/metrics`" + `, by package. Next to these stand the usual ` + "`go_*` and `process_*`" + `. Histograms are native, and
classic too for those who scrape without native histograms. A tenant label is there only where a bill or a limit needs it.
`
