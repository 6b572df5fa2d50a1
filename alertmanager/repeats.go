package alertmanager

import (
	"encoding/json"
	"errors"
	"net/url"

	yaml "go.yaml.in/yaml/v3"

	"github.com/hearth-metrics/hearth/budget"
	"github.com/hearth-metrics/hearth/wire"
)

// maxExpandedInAll is how long all regular expressions of a configuration get.
const maxExpandedInAll = 4 << 20

var errExpanded = errors.New("the regular expression repeats too much")

// checkExpanded refuses a configuration whose regular expressions, wherever they
// are, grow too large. What is no YAML is for others to refuse.
func checkExpanded(text string) error {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		return nil
	}
	left := maxExpandedInAll
	if line := firstTooMuch(&doc, &left); line > 0 {
		return invalid("alertmanager_config: line %d: %s", line, errExpanded)
	}
	return nil
}

// firstTooMuch is the line at which nothing is left; 0: something is.
func firstTooMuch(n *yaml.Node, left *int) int {
	*left -= budget.Expanded(n.Value) + 1 // aliases may make much of little, too
	if *left < 0 {
		return max(1, n.Line)
	}
	if n.Kind == yaml.AliasNode {
		return firstTooMuch(n.Alias, left)
	}
	for _, child := range n.Content {
		if line := firstTooMuch(child, left); line > 0 {
			return line
		}
	}
	return 0
}

// checkRequest refuses a silence, or a filter of what is asked for.
func checkRequest(r *wire.APIRequest) error {
	var silence struct {
		Matchers []struct {
			Value string `json:"value"`
		} `json:"matchers"`
	}
	_ = json.Unmarshal(r.Body, &silence) // upstream says what is wrong with it
	params, _ := url.ParseQuery(r.Query) // and with these
	total := 0
	for _, m := range silence.Matchers {
		total += budget.Expanded(m.Value)
	}
	for _, values := range params {
		for _, v := range values {
			total += budget.Expanded(v)
		}
	}
	if total > budget.MaxExpanded {
		return wire.Errorf(wire.Invalid, "err-alertmanager-request", "%s", errExpanded)
	}
	return nil
}
