// Command helm renders Hearth's chart, with Helm's own engine, for those who
// have no Helm: its output is for kubectl apply -f -. The tests in here hold
// what it renders against Kubernetes' types and against hearth itself.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"

	"helm.sh/helm/v4/pkg/chart/common"
	"helm.sh/helm/v4/pkg/chart/common/util"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/engine"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "helm:", err)
		os.Exit(1)
	}
}

func run(args []string, out io.Writer) error {
	fs := flag.NewFlagSet("helm", flag.ContinueOnError)
	chart := fs.String("chart", "../../deploy/kubernetes/hearth", "`folder` of the chart")
	values := fs.String("values", "", "YAML `file` that says what differs from the chart's values")
	name := fs.String("name", "hearth", "of the release")
	namespace := fs.String("namespace", "default", "that it is for")
	if err := fs.Parse(args); err != nil {
		return err
	}
	given := common.Values{}
	if *values != "" {
		var err error
		if given, err = common.ReadValuesFile(*values); err != nil {
			return err
		}
	}
	files, err := render(*chart, *name, *namespace, given)
	if err != nil {
		return err
	}
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if path.Ext(file) != ".yaml" { // notes and helpers
			continue
		}
		if _, err := fmt.Fprintf(out, "---\n# %s\n%s\n", file, files[file]); err != nil {
			return err
		}
	}
	return nil
}

// render is what each of the chart's templates becomes, by its name. The values
// have been held against the chart's schema.
func render(chart, name, namespace string, given common.Values) (map[string]string, error) {
	c, err := loader.LoadDir(chart)
	if err != nil {
		return nil, err
	}
	release := common.ReleaseOptions{Name: name, Namespace: namespace, Revision: 1, IsInstall: true}
	values, err := util.ToRenderValues(c, given, release, common.DefaultCapabilities)
	if err != nil {
		return nil, err
	}
	return engine.Engine{Strict: true}.RenderWithContext(context.Background(), c, values)
}
