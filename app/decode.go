package app

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"

	"github.com/hearth-metrics/hearth/tenant"
)

// decoder fills a Config from a YAML tree. It is stricter than yaml.Unmarshal
// (an unknown or repeated key is an error) and says more: every error names
// the key and where it stands.
type decoder struct {
	file   string                // named in errors
	origin map[*yaml.Node]string // nodes that came from -set, with the flag as it was given
	keys   []string              // every valid key, for suggestions
	limits *tenant.Limits        // what a tenant's limits start from
	errs   []error
}

var (
	yamlUnmarshaler = reflect.TypeFor[yaml.Unmarshaler]()
	funcUnmarshaler = reflect.TypeFor[interface{ UnmarshalYAML(func(any) error) error }]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
	limitsType      = reflect.TypeFor[tenant.Limits]()
)

// decode fills cfg, which holds the defaults, from the tree. All errors of the
// tree are reported together.
func (d *decoder) decode(root *yaml.Node, cfg *Config) error {
	d.keys = keysOf(reflect.TypeFor[Config](), "")
	d.limits = &cfg.Limits.Defaults
	d.value(root, "", reflect.ValueOf(cfg).Elem())
	return errors.Join(d.errs...)
}

func (d *decoder) value(n *yaml.Node, path string, dst reflect.Value) {
	switch {
	case n.Tag == "!!null": // a key without a value keeps what is there
	case isLeaf(dst.Type()):
		d.leaf(n, path, dst)
	case dst.Kind() == reflect.Struct:
		d.structure(n, path, dst)
	case dst.Kind() == reflect.Map:
		d.mapping(n, path, dst)
	case dst.Kind() == reflect.Slice:
		d.list(n, path, dst)
	default:
		panic("BUG: config type " + dst.Type().String() + " cannot be read from YAML")
	}
}

// structure reads fields in the order of the struct, not of the file, so that
// limits.defaults is complete when the first tenant starts from it.
func (d *decoder) structure(n *yaml.Node, path string, dst reflect.Value) {
	given, ok := d.entries(n, path)
	if !ok {
		return
	}
	valid := slices.Clip(d.keys)
	for name, f := range fieldsOf(dst.Type()) {
		valid = append(valid, join(path, name)) // d.keys has it with placeholders only
		if e, ok := given[name]; ok {
			d.value(e.value, join(path, name), dst.FieldByIndex(f.Index))
			delete(given, name)
		}
	}
	for _, e := range pairs(n) {
		if _, unknown := given[e.key.Value]; unknown {
			key := join(path, e.key.Value)
			d.failf(e.key, "unknown key %q, the nearest valid key is %q", key, nearest(key, valid))
		}
	}
}

func (d *decoder) mapping(n *yaml.Node, path string, dst reflect.Value) {
	given, ok := d.entries(n, path)
	if !ok || (len(given) == 0 && dst.Len() == 0) { // nothing is nothing, however it is written
		return
	}
	t := dst.Type()
	m := reflect.MakeMapWithSize(t, len(given))
	for _, e := range pairs(n) {
		name := e.key.Value
		if t.Key() == reflect.TypeFor[tenant.ID]() {
			if _, err := tenant.ParseID(name); err != nil {
				d.failf(e.key, "%s: %v", join(path, name), err)
				continue
			}
		}
		v := reflect.New(t.Elem()).Elem()
		if t.Elem() == limitsType {
			v.Set(reflect.ValueOf(*d.limits))
		}
		d.value(e.value, join(path, name), v)
		m.SetMapIndex(reflect.ValueOf(name).Convert(t.Key()), v)
	}
	dst.Set(m)
}

func (d *decoder) list(n *yaml.Node, path string, dst reflect.Value) {
	if n.Kind != yaml.SequenceNode {
		d.failf(n, "%s: want a list, got %s", path, describe(n))
		return
	}
	if len(n.Content) == 0 && dst.Len() == 0 {
		return
	}
	l := reflect.MakeSlice(dst.Type(), len(n.Content), len(n.Content))
	for i, item := range n.Content {
		d.value(item, fmt.Sprintf("%s[%d]", path, i), l.Index(i))
	}
	dst.Set(l)
}

func (d *decoder) leaf(n *yaml.Node, path string, dst reflect.Value) {
	want := typeName(dst.Type())
	if n.Kind != yaml.ScalarNode {
		d.failf(n, "%s: want %s, got %s", path, want, describe(n))
		return
	}
	if dst.Kind() == reflect.String {
		// Text is taken as it is written, also where YAML sees a number: 007
		// is a fine access key.
		c := *n
		c.Tag, n = "!!str", &c
	}
	if dst.CanInt() || dst.CanUint() {
		// yaml cuts fractions off; 4e6 is whole and fine.
		if f, err := strconv.ParseFloat(n.Value, 64); err == nil && f != math.Trunc(f) {
			d.failf(n, "%s: want %s, got %s", path, want, describe(n))
			return
		}
	}
	if err := n.Decode(dst.Addr().Interface()); err != nil {
		var te *yaml.TypeError
		if errors.As(err, &te) { // its text speaks of Go types
			d.failf(n, "%s: want %s, got %s", path, want, describe(n))
			return
		}
		d.failf(n, "%s: want %s: %v", path, want, err)
	}
}

type entry struct{ key, value *yaml.Node }

func pairs(n *yaml.Node) []entry {
	ps := make([]entry, 0, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		ps = append(ps, entry{n.Content[i], n.Content[i+1]})
	}
	return ps
}

// entries is a mapping by key. The second answer is false if n is none.
func (d *decoder) entries(n *yaml.Node, path string) (map[string]entry, bool) {
	if n.Kind != yaml.MappingNode {
		if path == "" {
			path = "the configuration"
		}
		d.failf(n, "%s: want keys and values, got %s", path, describe(n))
		return nil, false
	}
	m := make(map[string]entry, len(n.Content)/2)
	for _, e := range pairs(n) {
		if first, twice := m[e.key.Value]; twice {
			d.failf(e.key, "key %q is given twice, first in line %d", join(path, e.key.Value), first.key.Line)
			continue
		}
		m[e.key.Value] = e
	}
	return m, true
}

func (d *decoder) failf(n *yaml.Node, format string, args ...any) {
	where, ok := d.origin[n]
	if !ok {
		where = fmt.Sprintf("%s:%d", d.file, n.Line)
	}
	d.errs = append(d.errs, fmt.Errorf("%s: "+format, append([]any{where}, args...)...))
}

// isLeaf: a type that reads itself from a scalar, or a plain value.
func isLeaf(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	if p.Implements(yamlUnmarshaler) || p.Implements(funcUnmarshaler) || p.Implements(textUnmarshaler) {
		return true
	}
	switch t.Kind() {
	case reflect.Struct, reflect.Map, reflect.Slice, reflect.Pointer, reflect.Interface, reflect.Func, reflect.Chan:
		return false
	default:
		return true
	}
}

// typeName is a leaf's type in words of the user.
func typeName(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[model.Duration](), t == reflect.TypeFor[time.Duration]():
		return "a duration such as 30s or 2h"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64:
		return "a whole number"
	case t.Kind() == reflect.Float32, t.Kind() == reflect.Float64:
		return "a number"
	default:
		return "text"
	}
}

// describe says what a node is, for "want ..., got ...".
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys and values"
	case yaml.SequenceNode:
		return "a list"
	default:
		return fmt.Sprintf("%q", n.Value)
	}
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	if strings.ContainsAny(key, `."`) {
		key = `"` + key + `"`
	}
	return path + "." + key
}
