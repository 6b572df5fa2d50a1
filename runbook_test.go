package hearth_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every error id that a client may see has an entry in the runbook, and every
// entry is of an error that exists.
func TestRunbookKnowsEveryError(t *testing.T) {
	inCode := map[string]string{}
	id := regexp.MustCompile(`"(err-[a-z0-9-]+)"`)
	err := filepath.WalkDir(".", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			return enter(path, e.Name())
		}
		if filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		for _, m := range id.FindAllSubmatch(text, -1) {
			inCode[string(m[1])] = path
		}
		return err
	})
	require.NoError(t, err)
	require.NotEmpty(t, inCode)

	text, err := os.ReadFile("deploy/runbook.md")
	require.NoError(t, err)
	inRunbook := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^### `?(err-[a-z0-9-]+)`?$").FindAllSubmatch(text, -1) {
		inRunbook[string(m[1])] = true
	}
	for id, file := range inCode {
		if !inRunbook[id] {
			t.Errorf("%s (in %s) has no entry in deploy/runbook.md", id, file)
		}
	}
	for id := range inRunbook {
		if inCode[id] == "" {
			t.Errorf("deploy/runbook.md explains %s, which no code gives", id)
		}
	}
}
