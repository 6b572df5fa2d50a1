package rulefile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/promql/parser"
	"go.yaml.in/yaml/v3"
)

// File is a namespace with its groups, as one YAML document has them.
type File struct {
	Path      string
	Namespace string
	Groups    []Group
}

// extensions are those of rule files, where a folder is named.
var extensions = []string{".yml", ".yaml", ".rules"}

// Paths are the rule files that some names stand for, of which some may be
// folders.
func Paths(names []string) (out []string, err error) {
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			out = append(out, name)
			continue
		}
		before := len(out)
		err = filepath.WalkDir(name, func(path string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() && slices.Contains(extensions, filepath.Ext(path)) {
				out = append(out, path)
			}
			return err
		})
		if err != nil {
			return nil, err
		}
		if len(out) == before {
			return nil, fmt.Errorf("there is no rule file (%s) in %s", strings.Join(extensions, ", "), name)
		}
	}
	return out, nil
}

// Read reads rule files and folders of them as namespaces with groups. A group
// may be there once only.
func Read(names []string, p parser.Parser) (map[string][]Group, error) {
	paths, err := Paths(names)
	if err != nil {
		return nil, err
	}
	out := map[string][]Group{}
	var errs []error
	for _, path := range paths {
		files, err := ReadFile(path, p)
		if err != nil {
			errs = append(errs, err)
		}
		for _, f := range files {
			for _, g := range f.Groups {
				if slices.ContainsFunc(out[f.Namespace], func(o Group) bool { return o.Name == g.Name }) {
					errs = append(errs, fmt.Errorf("%s: the group %q is in the namespace %q already", f.Path, g.Name, f.Namespace))
				}
				out[f.Namespace] = append(out[f.Namespace], g)
			}
		}
	}
	return out, errors.Join(errs...)
}

// ReadFile reads one rule file, which may have several documents, each with a
// namespace of its own. One that names none has the file's name, without its
// extension.
func ReadFile(path string, p parser.Parser) ([]File, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	base := filepath.Base(path)
	files, err := parseFile(text, strings.TrimSuffix(base, filepath.Ext(base)), p)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	for i := range files {
		files[i].Path = path
	}
	return files, nil
}

// parseFile reads and checks the documents of a file.
func parseFile(text []byte, namespace string, p parser.Parser) (out []File, err error) {
	strict := yaml.NewDecoder(bytes.NewReader(text))
	strict.KnownFields(true)
	lines := yaml.NewDecoder(bytes.NewReader(text))
	var problems []string
	for {
		var doc struct {
			Namespace string  `yaml:"namespace"`
			Groups    []Group `yaml:"groups"`
		}
		var nodes struct {
			Groups []groupNodes `yaml:"groups"`
		}
		switch err := strict.Decode(&doc); {
		case errors.Is(err, io.EOF):
			return out, joined(problems)
		case err != nil:
			return nil, err
		}
		if err := lines.Decode(&nodes); err != nil {
			return nil, err
		}
		f := File{Namespace: namespace, Groups: doc.Groups}
		if doc.Namespace != "" {
			f.Namespace = doc.Namespace
		}
		problems = append(problems, checkGroups(f.Groups, nodes.Groups, p)...)
		out = append(out, f)
	}
}

// checkGroups is what is wrong with the groups of a namespace.
func checkGroups(groups []Group, nodes []groupNodes, p parser.Parser) (problems []string) {
	names := map[string]bool{}
	for i := range groups {
		g := &groups[i]
		for _, problem := range check(g, nodes[i], p) {
			problems = append(problems, fmt.Sprintf("group %q: %s", g.Name, problem))
		}
		if names[g.Name] {
			problems = append(problems, fmt.Sprintf("group %q: the name is repeated in the same namespace", g.Name))
		}
		names[g.Name] = true
	}
	return problems
}
