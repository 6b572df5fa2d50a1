package app

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Source is where a configuration comes from: a file, and single values that
// replace what the file says.
type Source struct {
	File string   // path; "" means the defaults alone
	Set  []string // path=value, as given with -set; the value is YAML
	// Getenv looks up ${NAME} in the file, as os.LookupEnv does.
	Getenv func(name string) (value string, ok bool)
}

// Load reads a configuration on top of the defaults and validates it. What
// -set says is put into the file's tree before anything is decoded, so it
// means the same as if the file had said it.
func Load(src Source) (Config, error) {
	cfg := DefaultConfig()
	d := &decoder{file: src.File, origin: map[*yaml.Node]string{}}
	root, err := readTree(src)
	if err != nil {
		return cfg, err
	}
	for _, s := range src.Set {
		if err := d.set(root, s); err != nil {
			return cfg, err
		}
	}
	if err := d.decode(root, &cfg); err != nil {
		return cfg, err
	}
	return cfg, cfg.Validate()
}

// readTree parses the file and expands variables and aliases in it.
func readTree(src Source) (*yaml.Node, error) {
	empty := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: 1}
	if src.File == "" {
		return empty, nil
	}
	text, err := os.ReadFile(src.File)
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", err)
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	var doc yaml.Node
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return empty, nil
	case err != nil:
		return nil, fmt.Errorf("%s: %w", src.File, err)
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: holds more than one YAML document", src.File)
	}
	root := doc.Content[0]
	if root.Tag == "!!null" {
		return empty, nil
	}
	if root, err = dealias(root, nil); err != nil {
		return nil, fmt.Errorf("%s:%w", src.File, err)
	}
	if err := expand(root, src.Getenv); err != nil {
		return nil, fmt.Errorf("%s:%w", src.File, err)
	}
	return root, nil
}

// dealias copies what aliases point to into their places, so that -set changes
// one place and not all that share an anchor.
func dealias(n *yaml.Node, above []*yaml.Node) (*yaml.Node, error) {
	if n.Kind == yaml.AliasNode {
		return dealias(n.Alias, above)
	}
	for _, a := range above {
		if a == n {
			return nil, fmt.Errorf("%d: anchor %q contains itself", n.Line, n.Anchor)
		}
	}
	c := *n
	c.Content = make([]*yaml.Node, len(n.Content))
	for i, child := range n.Content {
		var err error
		if c.Content[i], err = dealias(child, append(above, n)); err != nil {
			return nil, err
		}
	}
	return &c, nil
}

// expand replaces ${NAME} in every value by the environment's, and $$ by $. It
// works on parsed values, so a variable's content never changes the structure.
func expand(n *yaml.Node, getenv func(string) (string, bool)) error {
	if n.Kind == yaml.ScalarNode && strings.Contains(n.Value, "$") {
		v, err := expandText(n.Value, getenv)
		if err != nil {
			return fmt.Errorf("%d: %w", n.Line, err)
		}
		n.Value = v
		if n.Style == 0 {
			n.Tag = "" // not quoted: what it is (number, text) follows from the new value
		}
	}
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			continue // keys are taken as they are
		}
		if err := expand(child, getenv); err != nil {
			return err
		}
	}
	return nil
}

func expandText(s string, getenv func(string) (string, bool)) (string, error) {
	var out strings.Builder
	for {
		i := strings.IndexByte(s, '$')
		if i < 0 || i == len(s)-1 {
			out.WriteString(s)
			return out.String(), nil
		}
		out.WriteString(s[:i])
		switch s[i+1] {
		case '$':
			out.WriteByte('$')
			s = s[i+2:]
		case '{':
			name, rest, closed := strings.Cut(s[i+2:], "}")
			if !closed {
				return "", fmt.Errorf("%q has no closing brace; write $$ for a dollar sign", s[i:])
			}
			v, ok := getenv(name)
			if !ok {
				return "", fmt.Errorf("environment variable %s is not set", name)
			}
			out.WriteString(v)
			s = rest
		default:
			out.WriteByte('$')
			s = s[i+1:]
		}
	}
}

// set puts one path=value into the tree, making the levels that are missing.
func (d *decoder) set(root *yaml.Node, arg string) error {
	path, text, ok := strings.Cut(arg, "=")
	segments, err := splitPath(path)
	if !ok || err != nil {
		return fmt.Errorf("-set %s: want path=value, for example -set server.http_listen_address=:9009", path)
	}
	value := parseValue(text)
	where := "-set " + path // without the value, which may be a secret
	d.markOrigin(value, where)

	at := root
	for i, s := range segments {
		if at.Tag == "!!null" { // a section that the file leaves empty
			*at = yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		}
		if at.Kind != yaml.MappingNode {
			return fmt.Errorf("%s: %s is %s, it has no keys", where, strings.Join(segments[:i], "."), describe(at))
		}
		next := child(at, s)
		if next == nil {
			key := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
			next = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
			at.Content = append(at.Content, key, next)
			d.origin[key], d.origin[next] = where, where
		}
		if i == len(segments)-1 {
			*next = *value
			d.origin[next] = where
		}
		at = next
	}
	return nil
}

// parseValue reads the value of -set as YAML. What is not YAML, such as the
// address [::]:9009, is text; nothing is the empty text.
func parseValue(text string) *yaml.Node {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil || len(doc.Content) != 1 {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
	}
	n, err := dealias(doc.Content[0], nil)
	if err != nil {
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
	}
	return n
}

func (d *decoder) markOrigin(n *yaml.Node, where string) {
	d.origin[n] = where
	for _, c := range n.Content {
		d.markOrigin(c, where)
	}
}

func child(n *yaml.Node, key string) *yaml.Node {
	for _, e := range pairs(n) {
		if e.key.Value == key {
			return e.value
		}
	}
	return nil
}

// splitPath cuts a path at its dots. A part that has dots itself, as a tenant
// may, stands in double quotes: limits.tenants."team.a".max_series.
func splitPath(path string) ([]string, error) {
	var parts []string
	for {
		var part string
		if rest, quoted := strings.CutPrefix(path, `"`); quoted {
			var closed bool
			if part, path, closed = strings.Cut(rest, `"`); !closed || (path != "" && path[0] != '.') {
				return nil, errors.New("unbalanced quote")
			}
		} else {
			end := strings.IndexByte(path+".", '.')
			part, path = path[:end], path[end:]
		}
		if part == "" {
			return nil, errors.New("empty part")
		}
		parts = append(parts, part)
		if path == "" {
			return parts, nil
		}
		path = path[1:]
	}
}
