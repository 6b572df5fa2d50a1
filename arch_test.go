package hearth_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/hearth-metrics/hearth"

// row is a line of the README's map.
type row struct {
	text    string
	pkg     string
	word    string
	imports []string
}

var rowPattern = regexp.MustCompile("^\\| *[^|]*\\| *`([^`]+)` *\\| *([^|]*?) *\\| *([^|]*?) *\\|")

// table reads the map of packages from README.md, so that what people read is
// what holds.
func table(t *testing.T) map[string]row {
	t.Helper()
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	rows := map[string]row{}
	var above []string
	for line := range strings.Lines(string(text)) {
		m := rowPattern.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		r := row{text: strings.TrimSpace(line), pkg: m[1], word: m[2]}
		switch m[3] {
		case "–":
		case "all of the above":
			r.imports = slices.Clone(above)
		default:
			for name := range strings.SplitSeq(m[3], ",") {
				r.imports = append(r.imports, strings.TrimSpace(name))
			}
		}
		rows[r.pkg] = r
		above = append(above, r.pkg)
	}
	require.NotEmpty(t, rows, "README.md has lost its map of packages")
	return rows
}

// pkgSource is a folder with Go files.
type pkgSource struct {
	files []*ast.File // those that are built, or the tests where there is nothing else
	tests []*ast.File
}

// packages parses every package of this module; nested modules are left out.
func packages(t *testing.T) map[string]*pkgSource {
	t.Helper()
	pkgs := map[string]*pkgSource{}
	err := filepath.WalkDir(".", func(path string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case e.IsDir():
			return enter(path, e.Name())
		case filepath.Ext(path) != ".go" || filepath.Dir(path) == ".":
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		dir := filepath.ToSlash(filepath.Dir(path))
		if pkgs[dir] == nil {
			pkgs[dir] = &pkgSource{}
		}
		if strings.HasSuffix(path, "_test.go") {
			pkgs[dir].tests = append(pkgs[dir].tests, f)
		} else {
			pkgs[dir].files = append(pkgs[dir].files, f)
		}
		return nil
	})
	require.NoError(t, err)
	return pkgs
}

// enter skips folders that are not part of the module.
func enter(path, name string) error {
	if path == "." {
		return nil
	}
	if strings.HasPrefix(name, ".") || name == "testdata" || name == "data" || name == "bin" {
		return filepath.SkipDir
	}
	if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil {
		return filepath.SkipDir
	}
	return nil
}

func TestPackagesImportWhatTheMapAllows(t *testing.T) {
	rows := table(t)
	for dir, p := range packages(t) {
		r, ok := rows[dir]
		if !ok {
			t.Errorf("package %s has no row in the map of README.md", dir)
			continue
		}
		for _, f := range append(slices.Clone(p.files), p.tests...) {
			for _, spec := range f.Imports {
				path, err := strconv.Unquote(spec.Path.Value)
				require.NoError(t, err)
				ours, ok := strings.CutPrefix(path, module+"/")
				if ok && ours != dir && !slices.Contains(r.imports, ours) {
					t.Errorf("package %s imports %s, its row in README.md does not allow that:\n%s", dir, ours, r.text)
				}
			}
		}
	}
}

func TestMapHasNoPackageThatIsGone(t *testing.T) {
	pkgs := packages(t)
	for name, r := range table(t) {
		if pkgs[name] == nil {
			t.Errorf("README.md has a row for a package that does not exist:\n%s", r.text)
		}
		for _, i := range r.imports {
			if pkgs[i] == nil {
				t.Errorf("README.md allows to import %s, which does not exist:\n%s", i, r.text)
			}
		}
	}
}
