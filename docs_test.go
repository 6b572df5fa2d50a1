package hearth_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What the documents name is there: source files in backquotes, and links
// within the repository.
func TestDocumentsNameFilesThatExist(t *testing.T) {
	docs := []string{"README.md", "CONTRIBUTING.md"}
	for _, pattern := range []string{"docs/*.md", "docs/*/*.md", "deploy/*.md"} {
		more, err := filepath.Glob(pattern)
		require.NoError(t, err)
		docs = append(docs, more...)
	}
	source := regexp.MustCompile("`((?:[a-z]+/)*[a-z_]+\\.go)`")
	link := regexp.MustCompile(`\]\(([^)#]+)\)`)
	for _, doc := range docs {
		text, err := os.ReadFile(doc)
		require.NoError(t, err)
		for _, m := range source.FindAllSubmatch(text, -1) {
			if name := string(m[1]); strings.Contains(name, "/") || name == "arch_test.go" {
				require.FileExists(t, name, "named in %s", doc)
			}
		}
		for _, m := range link.FindAllSubmatch(text, -1) {
			target := string(m[1])
			if strings.Contains(target, "://") {
				continue
			}
			_, err := os.Stat(filepath.Join(filepath.Dir(doc), target))
			require.NoError(t, err, "linked from %s", doc)
		}
	}
}
