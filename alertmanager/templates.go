package alertmanager

import (
	"embed"
	"fmt"
	tmplhtml "html/template"
	"maps"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	tmpltext "text/template"
	"text/template/parse"

	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/template"

	"github.com/hearth-metrics/hearth/budget"
)

// shipped are templates that every tenant has: messages for receivers that
// upstream has no integration for.
//
//go:embed shipped.tmpl
var shipped embed.FS

// base are the templates that every tenant has, upstream's and ours, bounded.
// The trees are shared by all tenants: text/template does not change what it
// runs, and of html/template upstream runs only copies.
var base = sync.OnceValues(func() (map[string]*parse.Tree, error) {
	var text *tmpltext.Template
	t, err := template.FromGlobs(nil, func(tt *tmpltext.Template, _ *tmplhtml.Template) { text = tt })
	if err != nil {
		return nil, err
	}
	ours, err := shipped.Open("shipped.tmpl")
	if err != nil {
		return nil, err
	}
	if err := t.Parse(ours); err != nil {
		return nil, fmt.Errorf("shipped.tmpl: %w", err)
	}
	trees := map[string]*parse.Tree{}
	for _, tt := range text.Templates() {
		if tt.Name() != "" {
			budget.Bound(tt.Tree)
			trees[tt.Name()] = tt.Tree
		}
	}
	return trees, nil
})

// newTemplates parses a tenant's templates, over the base, and bounds what
// running them may cost. Templates in the configuration itself become named
// ones, so that all that runs is bounded; conf then calls them.
func newTemplates(files map[string]string, conf *config.Config) (*template.Template, error) {
	shared, err := base()
	if err != nil {
		return nil, err
	}
	var text *tmpltext.Template
	var html *tmplhtml.Template
	t, err := template.New(func(tt *tmpltext.Template, th *tmplhtml.Template) { text, html = tt, th })
	if err != nil {
		return nil, err
	}
	b := budget.New()
	text.Funcs(b.Functions())
	html.Funcs(b.Functions())
	for name, tree := range shared {
		if _, err := text.AddParseTree(name, tree); err != nil {
			return nil, err
		}
		if _, err := html.AddParseTree(name, tree); err != nil {
			return nil, err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if _, err := text.New(name).Parse(files[name]); err != nil {
			return nil, err // names the file and the line
		}
		if _, err := html.New(name).Parse(files[name]); err != nil {
			return nil, err
		}
	}
	in := &inliner{text: text, html: html}
	in.walk(reflect.ValueOf(conf.Receivers))
	in.routes(conf.Route)
	if in.err != nil {
		return nil, in.err
	}
	for _, tt := range text.Templates() {
		if tt.Tree != shared[tt.Name()] {
			budget.Bound(tt.Tree)
		}
	}
	for _, th := range html.Templates() {
		if th.Tree != shared[th.Name()] {
			budget.Bound(th.Tree)
		}
	}
	return t, nil
}

// inliner makes a named template of each text that is one.
type inliner struct {
	text *tmpltext.Template
	html *tmplhtml.Template
	n    int
	err  error
}

// name defines a template, and returns a call of it.
func (in *inliner) name(text string) string {
	in.n++
	name := fmt.Sprintf("alertmanager_config text %d", in.n)
	_, err := in.text.New(name).Parse(text)
	if err == nil {
		_, err = in.html.New(name).Parse(text)
	}
	if err != nil && in.err == nil {
		in.err = fmt.Errorf("alertmanager_config: %q: %w", cutText(text), err)
	}
	return fmt.Sprintf("{{ template %q . }}", name)
}

func cutText(s string) string {
	if len(s) > 100 {
		return strings.ToValidUTF8(s[:100], "") + "…"
	}
	return s
}

// routes names the labels of routes, which may be templates too.
func (in *inliner) routes(r *config.Route) {
	in.walk(reflect.ValueOf(r.Labels))
	for _, sub := range r.Routes {
		in.routes(sub)
	}
}

// walk replaces the texts in v that are templates.
func (in *inliner) walk(v reflect.Value) {
	switch v.Kind() {
	case reflect.String:
		if v.CanSet() && strings.Contains(v.String(), "{{") {
			v.SetString(in.name(v.String()))
		}
	case reflect.Pointer:
		if !v.IsNil() {
			in.walk(v.Elem())
		}
	case reflect.Interface:
		if !v.IsNil() && v.CanSet() {
			v.Set(in.copy(v.Elem()))
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			in.walk(v.Index(i))
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			value := in.copy(v.MapIndex(k))
			v.SetMapIndex(k, reflect.Value{})
			v.SetMapIndex(in.copy(k), value)
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[url.URL]() {
			return // these are not templates
		}
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				in.walk(v.Field(i))
			}
		}
	}
}

// copy is v with its texts replaced, where v itself cannot be changed.
func (in *inliner) copy(v reflect.Value) reflect.Value {
	c := reflect.New(v.Type()).Elem()
	c.Set(v)
	in.walk(c)
	return c
}
