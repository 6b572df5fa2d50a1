package rulefile

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
)

// Change is what a tenant's rules become in one step, in as many groups as there
// are: those that are set are there afterwards, whatever was there, and those
// that are deleted are not.
type Change struct {
	Set    map[string][]Group  `yaml:"set,omitempty"`    // by namespace
	Delete map[string][]string `yaml:"delete,omitempty"` // names of groups, by namespace
}

// ParseChange reads a Change and checks its groups as ParseGroup does.
func ParseChange(text []byte, p parser.Parser) (Change, error) {
	var c Change
	var nodes struct {
		Set map[string][]groupNodes `yaml:"set"`
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	switch err := dec.Decode(&c); {
	case errors.Is(err, io.EOF):
		return Change{}, errors.New("the body is empty, send what to set and what to delete in YAML")
	case err != nil:
		return Change{}, err
	}
	if err := yaml.Unmarshal(text, &nodes); err != nil {
		return Change{}, err
	}
	var problems []string
	for ns, groups := range c.Set {
		for _, problem := range checkGroups(groups, nodes.Set[ns], p) {
			problems = append(problems, fmt.Sprintf("namespace %q: %s", ns, problem))
		}
	}
	return c, joined(problems)
}
