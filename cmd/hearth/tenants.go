package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/tenant/admin"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// pairsFlag reads name=value, repeatedly.
func pairsFlag(fs *flag.FlagSet, name, usage string, set func(name, value string)) {
	fs.Func(name, usage, func(s string) error {
		k, v, ok := strings.Cut(s, "=")
		if !ok {
			return fmt.Errorf("want name=value, got %q", s)
		}
		set(k, v)
		return nil
	})
}

// limitValue is a limit as the API wants it: what is no number or boolean is
// text.
func limitValue(s string) json.RawMessage {
	if json.Valid([]byte(s)) {
		return json.RawMessage(s)
	}
	text, _ := json.Marshal(s) // never fails
	return text
}

func limitFlag(fs *flag.FlagSet, limits tenant.Overrides) {
	pairsFlag(fs, "limit", "a limit, `name=value`; null takes it back. Repeatable", func(k, v string) { limits[k] = limitValue(v) })
}

func tenantCreate(c *caller, args []string) error {
	req := admin.TenantRequest{Labels: map[string]string{}, Limits: tenant.Overrides{}}
	fs := c.flags("tenant create <id>")
	fs.StringVar(&req.DisplayName, "name", "", "a `name` for people")
	fs.StringVar(&req.Plan, "plan", "", "`plan` that its limits come from")
	pairsFlag(fs, "label", "a label, `name=value`; repeatable", func(k, v string) { req.Labels[k] = v })
	limitFlag(fs, req.Limits)
	names, err := c.parse(fs, args, 1)
	if err != nil {
		return err
	}
	req.ID = tenant.ID(names[0])
	var made admin.Created
	table, err := c.call(http.MethodPost, "/admin/v1/tenants", req, &made)
	if err != nil || !table {
		return err
	}
	if made.Token == nil {
		fmt.Fprintf(c.stdout, "There is the tenant %s already, made by the same request. hearth token create makes a token.\n", made.Tenant.ID)
		return nil
	}
	fmt.Fprintf(c.stdout, "tenant   %s\ntoken    %s\n         The token is told this once. For Prometheus:\n\n%s", made.Tenant.ID, made.Token.Secret, made.Snippets.Prometheus)
	return nil
}

func tenantList(c *caller, args []string) error {
	q := url.Values{}
	fs := c.flags("tenant list")
	for _, name := range []string{"status", "plan", "prefix"} {
		fs.Func(name, "only those with this `"+name+"`", func(s string) error { q.Set(name, s); return nil })
	}
	fs.Func("label", "only those with this label, `name=value`; repeatable", func(s string) error { q.Add("label", s); return nil })
	if _, err := c.parse(fs, args, 0); err != nil {
		return err
	}
	return c.tenantTable(func(row func(...any)) error {
		return pages(func(after string) (string, bool, error) {
			q.Set("after", after)
			q.Set("limit", "1000")
			var page admin.TenantPage
			table, err := c.call(http.MethodGet, "/admin/v1/tenants?"+q.Encode(), nil, &page)
			for _, t := range page.Tenants {
				row(t.ID, t.Status, t.Plan, t.CreatedAt, t.DisplayName)
			}
			return string(page.Next), table, err
		})
	})
}

// pages asks for one page after the other. Where JSON is printed it is one.
func pages(ask func(after string) (next string, more bool, err error)) error {
	for after := ""; ; {
		next, more, err := ask(after)
		if err != nil || !more || next == "" {
			return err
		}
		after = next
	}
}

func (c *caller) tenantTable(rows func(row func(...any)) error) error {
	return c.lazyTable("ID STATUS PLAN CREATED NAME", rows)
}

// lazyTable prints a table of rows that may fail to come; nothing where JSON
// was printed already.
func (c *caller) lazyTable(header string, rows func(row func(...any)) error) error {
	var all [][]any
	if err := rows(func(cells ...any) { all = append(all, cells) }); err != nil || c.output == "json" {
		return err
	}
	return c.table(header, func(row func(...any)) {
		for _, cells := range all {
			row(cells...)
		}
	})
}

// one calls with one name in the path, and prints the tenant that is answered.
func (c *caller) one(verb, method, after string, args []string) error {
	names, err := c.parse(c.flags("tenant "+verb+" <id>"), args, 1)
	if err != nil {
		return err
	}
	return c.showTenant(method, "/admin/v1/tenants/"+url.PathEscape(names[0])+after, nil)
}

func (c *caller) showTenant(method, path string, body any) error {
	return c.tenantTable(func(row func(...any)) error {
		var t tenant.Tenant
		table, err := c.call(method, path, body, &t)
		if table && err == nil {
			row(t.ID, t.Status, t.Plan, t.CreatedAt, t.DisplayName)
		}
		return err
	})
}

func tenantShow(c *caller, args []string) error { return c.one("show", http.MethodGet, "", args) }
func tenantDelete(c *caller, args []string) error {
	return c.one("delete", http.MethodDelete, "", args)
}

func tenantUndelete(c *caller, args []string) error {
	return c.one("undelete", http.MethodPost, "/undelete", args)
}

func tenantUpdate(c *caller, args []string) error {
	patch := map[string]any{}
	labels, limits := map[string]any{}, tenant.Overrides{}
	fs := c.flags("tenant update <id>")
	for flagName, field := range map[string]string{"name": "display_name", "plan": "plan", "status": "status"} {
		fs.Func(flagName, "set the `"+flagName+"`", func(s string) error { patch[field] = s; return nil })
	}
	pairsFlag(fs, "label", "set a label, `name=value`; an empty value takes it away. Repeatable", func(k, v string) {
		labels[k] = v
		if v == "" {
			labels[k] = nil
		}
	})
	limitFlag(fs, limits)
	names, err := c.parse(fs, args, 1)
	if err != nil {
		return err
	}
	patch["labels"], patch["limits"] = labels, limits
	return c.showTenant(http.MethodPatch, "/admin/v1/tenants/"+url.PathEscape(names[0]), patch)
}

func tenantLimits(c *caller, args []string) error {
	names, err := c.parse(c.flags("tenant limits <id>"), args, 1)
	if err != nil {
		return err
	}
	return c.lazyTable("LIMIT VALUE FROM", func(row func(...any)) error {
		var l admin.LimitsAnswer
		_, err := c.call(http.MethodGet, "/admin/v1/tenants/"+url.PathEscape(names[0])+"/limits", nil, &l)
		for _, name := range sortedKeys(l.Limits) {
			row(name, l.Limits[name].Value, l.Limits[name].Source)
		}
		return err
	})
}
