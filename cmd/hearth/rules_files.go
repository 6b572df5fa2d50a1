package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/grafana/regexp"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"go.yaml.in/yaml/v3"

	"github.com/hearth-metrics/hearth/app"
	"github.com/hearth-metrics/hearth/ruler/rulefile"
	"github.com/hearth-metrics/hearth/ruler/ruletest"
)

// exitLint is promtool's code for what is no error, but hardly meant so.
const exitLint = 3

// showDifference prints what differs of a group: lines that go with a minus,
// those that come with a plus. Rules that stay are left out.
func (c *caller) showDifference(ch change) {
	fmt.Fprintf(c.stdout, "%s %s/%s\n", ch.Action, ch.Namespace, ch.Group)
	was, is := pieces(ch.was), pieces(ch.is)
	keep := common(was, is)
	show := func(sign string, all []string) {
		kept := keep
		for _, p := range all {
			if len(kept) > 0 && kept[0] == p {
				kept = kept[1:]
				continue
			}
			for line := range strings.Lines(p) {
				fmt.Fprintf(c.stdout, "%s %s\n", sign, strings.TrimSuffix(line, "\n"))
			}
		}
	}
	show("-", was)
	show("+", is)
}

// pieces are the head of a group and its rules, as they are written.
func pieces(g *rulefile.Group) (out []string) {
	if g == nil {
		return nil
	}
	add := func(v any) {
		text, err := yaml.Marshal(v)
		if err != nil {
			text = []byte(err.Error())
		}
		out = append(out, string(text))
	}
	head := *g
	head.Rules = nil
	add(head)
	for _, r := range g.Rules {
		add([]any{r})
	}
	return out
}

// common is the longest list that two have in common, in order.
func common(a, b []string) []string {
	best := make([][]int, len(a)+1) // of the rest of a and the rest of b
	for i := range best {
		best[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			best[i][j] = max(best[i+1][j], best[i][j+1])
			if a[i] == b[j] {
				best[i][j] = best[i+1][j+1] + 1
			}
		}
	}
	var out []string
	for i, j := 0, 0; i < len(a) && j < len(b); {
		switch {
		case a[i] == b[j]:
			out = append(out, a[i])
			i, j = i+1, j+1
		case best[i+1][j] >= best[i][j+1]:
			i++
		default:
			j++
		}
	}
	return out
}

// rulesCheck reads files as a ruler would. As promtool does, it ends with 1
// where there is an error, and with -lint-fatal with 3 where two rules give the
// same series.
func rulesCheck(c *caller, args []string) error {
	fs := c.localFlags("rules check <file or folder>...")
	fatal := fs.Bool("lint-fatal", false, "exit with 3 where two rules of a file give the same series")
	names, err := c.parseAny(fs, args)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		return fmt.Errorf("%w: name rule files, or folders of them", errUsage)
	}
	paths, err := rulefile.Paths(names)
	if err != nil {
		return err
	}
	failed, lint := false, false
	for _, path := range paths {
		fmt.Fprintf(c.stdout, "Checking %s\n", path)
		files, err := rulefile.ReadFile(path, app.Parser())
		if err != nil {
			failed = true
			fmt.Fprintf(c.stdout, "  FAILED: %s\n", err)
			continue
		}
		lint = c.lint(files) || lint
	}
	switch {
	case failed:
		return exit{exitFailure, nil}
	case lint && *fatal:
		return exit{exitLint, nil}
	}
	return nil
}

// lint says whether two rules of a file give the same series.
func (c *caller) lint(files []rulefile.File) (found bool) {
	count := 0
	for _, f := range files {
		for _, g := range f.Groups {
			count += len(g.Rules)
		}
		for _, s := range rulefile.Duplicates(f.Groups) {
			found = true
			b := labels.NewBuilder(s.Labels)
			b.Set(model.MetricNameLabel, s.Name)
			fmt.Fprintf(c.stdout, "  DUPLICATE: more than one rule gives %s; which one counts is chance\n", b.Labels())
		}
	}
	fmt.Fprintf(c.stdout, "  SUCCESS: %d rules found\n", count)
	return found
}

// rulesTest runs unit tests of rules.
func rulesTest(c *caller, args []string) error {
	fs := c.localFlags("rules test <test file>...")
	o := ruletest.Options{Parser: app.Parser(), Warn: func(s string) { fmt.Fprintf(c.stdout, "  WARNING: %s\n", s) }}
	fs.Func("run", "only tests whose name matches this `regexp`", func(s string) (err error) {
		o.Only, err = regexp.Compile(s)
		return err
	})
	paths, err := c.parseAny(fs, args)
	if err != nil {
		return err
	}
	if len(paths) == 0 {
		return fmt.Errorf("%w: name test files", errUsage)
	}
	failed := false
	for _, path := range paths {
		fmt.Fprintf(c.stdout, "Testing %s\n", path)
		errs := ruletest.Run(path, o)
		if len(errs) == 0 {
			fmt.Fprintln(c.stdout, "  SUCCESS")
			continue
		}
		failed = true
		fmt.Fprintf(c.stdout, "  FAILED:\n    %s\n", strings.ReplaceAll(errors.Join(errs...).Error(), "\n", "\n    "))
	}
	if failed {
		return exit{exitFailure, nil}
	}
	return nil
}
