package app

import (
	"bytes"
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Print renders a configuration as YAML. Secrets are masked by their type.
func Print(cfg Config) ([]byte, error) {
	var node yaml.Node
	if err := node.Encode(&cfg); err != nil {
		return nil, fmt.Errorf("print the configuration: %w", err)
	}
	return render(&node)
}

// PrintDiff renders what differs from the defaults.
func PrintDiff(cfg Config) ([]byte, error) {
	var is, def yaml.Node
	defaults := DefaultConfig()
	if err := is.Encode(&cfg); err != nil {
		return nil, fmt.Errorf("print the configuration: %w", err)
	}
	if err := def.Encode(&defaults); err != nil {
		return nil, fmt.Errorf("print the configuration: %w", err)
	}
	// A plan and a tenant start from the limits of everyone.
	var everyone yaml.Node
	if err := everyone.Encode(&cfg.Limits.Defaults); err != nil {
		return nil, fmt.Errorf("print the configuration: %w", err)
	}
	for _, section := range []string{"plans", "tenants"} {
		if named := child(child(&is, "limits"), section); named != nil {
			for _, e := range pairs(named) {
				without(e.value, &everyone)
			}
		}
	}
	without(&is, &def)
	return render(&is)
}

// without removes from a mapping what another has with equal values.
func without(n, other *yaml.Node) {
	var kept []*yaml.Node
	for _, e := range pairs(n) {
		o := child(other, e.key.Value)
		if o != nil && e.value.Kind == yaml.MappingNode && o.Kind == yaml.MappingNode && len(o.Content) > 0 {
			without(e.value, o)
			if len(e.value.Content) == 0 {
				continue
			}
		}
		if o != nil && equal(e.value, o) {
			continue
		}
		kept = append(kept, e.key, e.value)
	}
	n.Content = kept
}

func equal(a, b *yaml.Node) bool {
	return a.Kind == b.Kind && a.Tag == b.Tag && a.Value == b.Value && slices.EqualFunc(a.Content, b.Content, equal)
}

func render(n *yaml.Node) ([]byte, error) {
	var out bytes.Buffer
	enc := yaml.NewEncoder(&out)
	enc.SetIndent(2)
	if err := enc.Encode(n); err != nil {
		return nil, fmt.Errorf("print the configuration: %w", err)
	}
	return out.Bytes(), enc.Close()
}
