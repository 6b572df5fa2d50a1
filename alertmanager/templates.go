package alertmanager

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/template"
)

// newTemplates parses a tenant's templates over upstream's and ours.
func newTemplates(files map[string]string, _ *config.Config) (*template.Template, error) {
	t, err := template.FromGlobs(nil)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := t.Parse(strings.NewReader(files[name])); err != nil {
			return nil, fmt.Errorf("template file %.100q: %w", name, err)
		}
	}
	return t, nil
}
