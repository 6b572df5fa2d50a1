// Package ruletest is the DRILL: it plays rules against samples that a file
// makes up, and compares what they record and what fires with what the file
// expects.
//
// In comes a test file as `promtool test rules` takes it, which names its rule
// files; out go the differences. Evaluation is Prometheus' own, over its test
// storage. Start reading at Run, then group.run.
package ruletest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/grafana/regexp"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"

	"github.com/hearth-metrics/hearth/ruler/rulefile"
)

// file is a test file.
type file struct {
	RuleFiles          []string       `yaml:"rule_files"`
	EvaluationInterval model.Duration `yaml:"evaluation_interval"`
	GroupEvalOrder     []string       `yaml:"group_eval_order"`
	Tests              []group        `yaml:"tests"`
	FuzzyCompare       bool           `yaml:"fuzzy_compare"`
}

// group is samples, and what should come of them.
type group struct {
	Name           string         `yaml:"name"`
	Interval       model.Duration `yaml:"interval"`
	InputSeries    []inputSeries  `yaml:"input_series"`
	AlertTests     []alertTest    `yaml:"alert_rule_test"`
	ExprTests      []exprTest     `yaml:"promql_expr_test"`
	ExternalLabels labels.Labels  `yaml:"external_labels"`
	ExternalURL    string         `yaml:"external_url"`
	StartTimestamp startTime      `yaml:"start_timestamp"`
}

type inputSeries struct {
	Series string `yaml:"series"`
	Values string `yaml:"values"`
}

type alertTest struct {
	EvalTime  model.Duration  `yaml:"eval_time"`
	Alertname string          `yaml:"alertname"`
	ExpAlerts []expectedAlert `yaml:"exp_alerts"`
}

type expectedAlert struct {
	Labels      map[string]string `yaml:"exp_labels"`
	Annotations map[string]string `yaml:"exp_annotations"`
}

type exprTest struct {
	Expr       string           `yaml:"expr"`
	EvalTime   model.Duration   `yaml:"eval_time"`
	ExpSamples []expectedSample `yaml:"exp_samples"`
}

type expectedSample struct {
	Labels    string  `yaml:"labels"`
	Value     float64 `yaml:"value"`
	Histogram string  `yaml:"histogram"` // where it is set, the value does not count
}

// startTime is a time in RFC 3339 or in seconds since 1970.
type startTime struct{ time.Time }

// UnmarshalYAML implements yaml.Unmarshaler.
func (s *startTime) UnmarshalYAML(n *yaml.Node) (err error) {
	if secs, err := strconv.ParseFloat(n.Value, 64); err == nil {
		s.Time = time.UnixMilli(int64(secs * 1000)).UTC()
		return nil
	}
	if s.Time, err = time.Parse(time.RFC3339Nano, n.Value); err != nil {
		return fmt.Errorf("start_timestamp %q: want RFC 3339 or seconds since 1970", n.Value)
	}
	return nil
}

// Options say how a file is run.
type Options struct {
	Parser parser.Parser
	Only   *regexp.Regexp // tests with such a name; nil: all
	Warn   func(string)   // of what is no error, but hardly meant so
}

// Run runs a test file. Each error is one thing that is not as expected.
func Run(path string, o Options) []error {
	f, err := read(path)
	if err != nil {
		return []error{err}
	}
	order := map[string]int{}
	for i, name := range f.GroupEvalOrder {
		if _, ok := order[name]; ok {
			return []error{fmt.Errorf("the group %q is repeated in group_eval_order", name)}
		}
		order[name] = i
	}
	if err := f.findRules(filepath.Dir(path), o); err != nil {
		return []error{err}
	}
	rules, err := load(f.RuleFiles, o.Parser)
	if err != nil {
		return []error{err}
	}
	var errs []error
	for i := range f.Tests {
		t := &f.Tests[i]
		if o.Only != nil && !o.Only.MatchString(t.Name) {
			continue
		}
		if t.Interval == 0 {
			t.Interval = f.EvaluationInterval
		}
		name := t.Name
		if name == "" {
			name = fmt.Sprintf("test %d", i+1)
		}
		r := run{group: t, file: f, order: order, rules: rules}
		for _, err := range r.play() {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errs
}

func read(path string) (*file, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f := &file{}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	if err := dec.Decode(f); err != nil {
		return nil, err
	}
	if f.EvaluationInterval == 0 {
		f.EvaluationInterval = model.Duration(time.Minute)
	}
	return f, nil
}

// findRules replaces patterns for rule files, which are relative to the test
// file, with the files that there are.
func (f *file) findRules(dir string, o Options) error {
	var found []string
	for _, pattern := range f.RuleFiles {
		if pattern != "" && !filepath.IsAbs(pattern) {
			pattern = filepath.Join(dir, pattern)
		}
		paths, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		if len(paths) == 0 {
			o.Warn("no rule file matches " + pattern)
		}
		found = append(found, paths...)
	}
	f.RuleFiles = found
	return nil
}

// loader is a rules.GroupLoader of what is in rule files: a "file" of it is one
// document, because groups of two namespaces may have one name.
type loader struct {
	parser.Parser
	documents map[string]rulefile.File
}

// load reads rule files.
func load(paths []string, p parser.Parser) (loader, error) {
	l := loader{p, map[string]rulefile.File{}}
	for _, path := range paths {
		files, err := rulefile.ReadFile(path, p)
		if err != nil {
			return loader{}, err
		}
		for i, f := range files {
			l.documents[fmt.Sprintf("%s#%d", path, i)] = f
		}
	}
	return l, nil
}

// Load implements rules.GroupLoader.
func (l loader) Load(name string, _ bool, _ model.ValidationScheme) (*rulefmt.RuleGroups, []error) {
	out := &rulefmt.RuleGroups{}
	for _, g := range l.documents[name].Groups {
		out.Groups = append(out.Groups, g.RuleGroup)
	}
	return out, nil
}

// Parse implements rules.GroupLoader.
func (l loader) Parse(expr string) (parser.Expr, error) { return l.ParseExpr(expr) }

// input is the samples, in the language of Prometheus' own tests.
func (g *group) input() string {
	interval := g.Interval.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(interval, zero) {
			interval = interval[:len(interval)-2]
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "load %s\n", interval)
	for _, s := range g.InputSeries {
		fmt.Fprintf(&b, "  %s %s\n", s.Series, s.Values)
	}
	return b.String()
}

// last is the time of the last expectation.
func (g *group) last() time.Duration {
	var last model.Duration
	for _, t := range g.AlertTests {
		last = max(last, t.EvalTime)
	}
	for _, t := range g.ExprTests {
		last = max(last, t.EvalTime)
	}
	return time.Duration(last)
}

// validate finds what cannot be tested.
func (g *group) validate() error {
	for _, t := range g.AlertTests {
		if t.Alertname == "" {
			return errors.New("an entry of alert_rule_test has no alertname")
		}
	}
	return nil
}
