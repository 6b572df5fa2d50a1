package hearth_test

import (
	"strings"
	"testing"
)

// Every package says at its head what it is for, beginning with its word on
// the map, so that `go doc` draws the architecture.
func TestPackagesHaveTheirWord(t *testing.T) {
	rows := table(t)
	for dir, p := range packages(t) {
		var doc strings.Builder
		files := p.files
		if len(files) == 0 {
			files = p.tests
		}
		for _, f := range files {
			doc.WriteString(f.Doc.Text())
		}
		first, _, _ := strings.Cut(doc.String(), "\n\n")
		switch {
		case doc.Len() == 0:
			t.Errorf("package %s has no package comment", dir)
		case !strings.Contains(first, rows[dir].word):
			t.Errorf("the comment of package %s does not begin with its word %q:\n%s", dir, rows[dir].word, first)
		}
	}
}
