package alertmanager

import (
	"encoding/json"
	"errors"
	"net/url"
	"regexp"
	"strconv"

	yaml "go.yaml.in/yaml/v3"

	"github.com/hearth-metrics/hearth/wire"
)

// A regular expression that counts, as (x|y){1,900}, is compiled to as many
// copies of what it repeats: a short text can take much memory, and seconds. So
// what they grow to is bounded, before any is compiled.
const (
	maxExpanded      = 256 << 10 // of a silence, a request, a pattern in a template
	maxExpandedInAll = 4 << 20   // of a configuration
	maxCount         = 1000      // regexp refuses more, nested ones multiplied
)

var errExpanded = errors.New("the regular expression repeats too much")

var counted = regexp.MustCompile(`\{(\d+)(?:,(\d*))?\}`)

// expanded is about how long a regular expression gets, at most; 0 if it does
// not count.
func expanded(text string) int {
	product := 0
	for _, m := range counted.FindAllStringSubmatch(text, -1) {
		n := 1
		for _, digits := range m[1:] {
			if v, err := strconv.Atoi(digits); err == nil {
				n = max(n, min(v, maxCount))
			}
		}
		product = min(max(product, 1)*n, maxCount)
	}
	return product * len(text)
}

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
	*left -= expanded(n.Value) + 1 // aliases may make much of little, too
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
		total += expanded(m.Value)
	}
	for _, values := range params {
		for _, v := range values {
			total += expanded(v)
		}
	}
	if total > maxExpanded {
		return wire.Errorf(wire.Invalid, "err-alertmanager-request", "%s", errExpanded)
	}
	return nil
}
