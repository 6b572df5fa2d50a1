package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// built is the program to ask.
var built struct {
	once sync.Once
	dir  string
	path string
	err  error
}

// program is the path of hearth: HEARTH_BIN, or built from these sources.
func program(t *testing.T) string {
	t.Helper()
	built.once.Do(func() {
		if built.path = os.Getenv("HEARTH_BIN"); built.path != "" {
			return
		}
		if built.dir, built.err = os.MkdirTemp("", "hearth-deploy-"); built.err != nil {
			return
		}
		built.path = filepath.Join(built.dir, "hearth")
		if out, err := exec.Command("go", "build", "-ldflags=-s -w", "-o", built.path, "../cmd/hearth").CombinedOutput(); err != nil {
			built.err = fmt.Errorf("go build ../cmd/hearth: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}
