package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/hearth-metrics/hearth/app"
	"github.com/hearth-metrics/hearth/ruler/rulefile"
)

// rulesPath is where a tenant's rules are kept by API.
const rulesPath = "/prometheus/config/v1/rules"

// namespaces are rules, as the API and files have them.
type namespaces map[string][]rulefile.Group

// rulesFlags are those of what asks a server for a tenant's rules.
func (c *caller) rulesFlags(name string) *flag.FlagSet {
	fs := c.flags("rules " + name)
	fs.StringVar(&c.tenant, "tenant", os.Getenv("HEARTH_TENANT"), "whose rules, where the token does not say; also HEARTH_TENANT")
	return fs
}

func groupPath(names ...string) string {
	path := rulesPath
	for _, name := range names {
		path += "/" + url.PathEscape(name)
	}
	return path
}

// rulesThere are the rules that the server has; a namespace's or a group's
// alone if it is named.
func (c *caller) rulesThere(names ...string) (namespaces, error) {
	text, err := c.send(http.MethodGet, groupPath(names...), nil)
	if r := (*refusal)(nil); len(names) == 0 && errors.As(err, &r) && r.status == http.StatusNotFound {
		return namespaces{}, nil // none yet
	}
	if err != nil {
		return nil, err
	}
	if len(names) == 2 {
		var g rulefile.Group
		err := yaml.Unmarshal(text, &g)
		return namespaces{names[0]: {g}}, err
	}
	there := namespaces{}
	return there, yaml.Unmarshal(text, &there)
}

// selection is which namespaces are looked at.
type selection struct{ only, not []string }

func (s *selection) flags(fs *flag.FlagSet) {
	list := func(into *[]string) func(string) error {
		return func(text string) error {
			*into = strings.Split(text, ",")
			return nil
		}
	}
	fs.Func("namespaces", "look at these only, a comma-separated `list`; there and in the files", list(&s.only))
	fs.Func("ignored-namespaces", "leave these as they are, a comma-separated `list`", list(&s.not))
}

func (s *selection) of(all namespaces) namespaces {
	out := namespaces{}
	for name, groups := range all {
		if (len(s.only) == 0 || slices.Contains(s.only, name)) && !slices.Contains(s.not, name) {
			out[name] = groups
		}
	}
	return out
}

// change is what would make a group on the server that of the files.
type change struct {
	Action    string `json:"action"` // create, update or delete
	Namespace string `json:"namespace"`
	Group     string `json:"group"`

	was, is *rulefile.Group
}

// compare lists what differs, in order; what is only there comes last, so that
// rules that move to another group do not miss an evaluation.
func compare(there, files namespaces) (changes []change) {
	find := func(in []rulefile.Group, name string) *rulefile.Group {
		i := slices.IndexFunc(in, func(g rulefile.Group) bool { return g.Name == name })
		if i < 0 {
			return nil
		}
		return &in[i]
	}
	for _, ns := range sortedKeys(files) {
		for i := range files[ns] {
			is := &files[ns][i]
			switch was := find(there[ns], is.Name); {
			case was == nil:
				changes = append(changes, change{"create", ns, is.Name, nil, is})
			case !rulefile.Equal(was, is):
				changes = append(changes, change{"update", ns, is.Name, was, is})
			}
		}
	}
	for _, ns := range sortedKeys(there) {
		for i := range there[ns] {
			if was := &there[ns][i]; find(files[ns], was.Name) == nil {
				changes = append(changes, change{"delete", ns, was.Name, was, nil})
			}
		}
	}
	return changes
}

// readRules reads files and folders.
func readRules(names []string) (namespaces, error) {
	if len(names) == 0 {
		return nil, fmt.Errorf("%w: name rule files, or folders of them", errUsage)
	}
	return rulefile.Read(names, app.Parser())
}

// maxChange is about how large a request gets. A server takes 4 MiB; almost all
// tenants' rules fit into one request, which is one version of them.
const maxChange = 3 << 20

// apply makes changes, all at once if they fit into one request.
func (c *caller) apply(changes []change) error {
	for made := 0; made < len(changes); {
		n, text, err := request(changes[made:])
		if err == nil {
			_, err = c.send(http.MethodPatch, rulesPath, text)
		}
		if err != nil {
			return fmt.Errorf("%w; of %d changes %d are made", err, len(changes), made)
		}
		made += n
	}
	return c.showChanges(changes)
}

// request is a request with the first of some changes, and how many these are.
func request(changes []change) (n int, text []byte, err error) {
	body := rulefile.Change{Set: map[string][]rulefile.Group{}, Delete: map[string][]string{}}
	size := 0
	for _, ch := range changes {
		group, err := yaml.Marshal(ch.is)
		if err != nil {
			return 0, nil, err
		}
		// Indented in the whole, a line gets longer.
		if size += len(group) + 8*bytes.Count(group, []byte("\n")); n > 0 && size > maxChange {
			break
		}
		n++
		if ch.is == nil {
			body.Delete[ch.Namespace] = append(body.Delete[ch.Namespace], ch.Group)
		} else {
			body.Set[ch.Namespace] = append(body.Set[ch.Namespace], *ch.is)
		}
	}
	text, err = yaml.Marshal(body)
	return n, text, err
}

func (c *caller) showChanges(changes []change) error {
	if c.output == "json" {
		return c.printJSON(map[string]any{"changes": append([]change{}, changes...)})
	}
	if len(changes) == 0 {
		fmt.Fprintln(c.stdout, "The rules are as in the files.")
		return nil
	}
	return c.table("ACTION NAMESPACE GROUP", func(row func(...any)) {
		for _, ch := range changes {
			row(ch.Action, ch.Namespace, ch.Group)
		}
	})
}

func (c *caller) printJSON(v any) error {
	enc := json.NewEncoder(c.stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// rulesLoad sends what is in files, and leaves alone what is not.
func rulesLoad(c *caller, args []string) error {
	changes, err := c.changes("load", args, false)
	if err != nil {
		return err
	}
	return c.apply(slices.DeleteFunc(changes, func(ch change) bool { return ch.is == nil }))
}

// rulesSync makes the server's rules those of the files.
func rulesSync(c *caller, args []string) error {
	changes, err := c.changes("sync", args, true)
	if err != nil {
		return err
	}
	return c.apply(changes)
}

// rulesDiff shows what sync would change. As diff does, it ends with 1 where
// something differs, and with 2 where it cannot say.
func rulesDiff(c *caller, args []string) error {
	changes, err := c.changes("diff", args, true)
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		return exit{exitUsage, err}
	}
	if err != nil || len(changes) == 0 {
		return err
	}
	if c.output == "json" {
		err = c.showChanges(changes)
	} else {
		for _, ch := range changes {
			c.showDifference(ch)
		}
	}
	if err != nil {
		return exit{exitUsage, err}
	}
	return exit{exitFailure, nil}
}

// changes are what makes the server as the files say.
func (c *caller) changes(verb string, args []string, selects bool) ([]change, error) {
	var s selection
	fs := c.rulesFlags(verb + " <file or folder>...")
	if selects {
		s.flags(fs)
	}
	names, err := c.parseAny(fs, args)
	if err != nil {
		return nil, err
	}
	files, err := readRules(names)
	if err != nil {
		return nil, err
	}
	there, err := c.rulesThere()
	if err != nil {
		return nil, err
	}
	return compare(s.of(there), s.of(files)), nil
}

// rulesGet prints rules as a rule file. Of one namespace it is one that
// Prometheus and promtool read, too.
func rulesGet(c *caller, args []string) error {
	names, err := c.parseAny(c.rulesFlags("get [<namespace> [<group>]]"), args)
	if err != nil {
		return err
	}
	if len(names) > 2 {
		return fmt.Errorf("%w: want a namespace and a group at most, got %d names", errUsage, len(names))
	}
	there, err := c.rulesThere(names...)
	if err != nil {
		return err
	}
	type document struct {
		Namespace string           `yaml:"namespace,omitempty"`
		Groups    []rulefile.Group `yaml:"groups"`
	}
	if c.output == "json" {
		text, err := yaml.Marshal(there)
		var plain map[string]any
		if err = errors.Join(err, yaml.Unmarshal(text, &plain)); err != nil {
			return err
		}
		return c.printJSON(plain)
	}
	if len(there) == 0 {
		return nil
	}
	enc := yaml.NewEncoder(c.stdout)
	enc.SetIndent(2)
	for _, ns := range sortedKeys(there) {
		d := document{ns, there[ns]}
		if len(names) > 0 {
			d.Namespace = ""
		}
		if err := enc.Encode(d); err != nil {
			return err
		}
	}
	return enc.Close()
}

// rulesDelete removes a group, or a namespace with all that it has.
func rulesDelete(c *caller, args []string) error {
	names, err := c.parseAny(c.rulesFlags("delete <namespace> [<group>]"), args)
	if err != nil {
		return err
	}
	if len(names) != 1 && len(names) != 2 {
		return fmt.Errorf("%w: want a namespace, and a group if not all of it, got %d names", errUsage, len(names))
	}
	_, err = c.send(http.MethodDelete, groupPath(names...), nil)
	return err
}
