package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/common/model"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/tenant/admin"
)

func tokenCreate(c *caller, args []string) error {
	body := map[string]any{}
	fs := c.flags("token create")
	for flagName, usage := range map[string]string{"tenant": "whose; without it an operator's", "name": "for people", "label-policy": "selector that its reads are narrowed by"} {
		field := strings.ReplaceAll(flagName, "-", "_")
		fs.Func(flagName, usage, func(s string) error { body[field] = s; return nil })
	}
	fs.Func("scopes", "what it may do, a comma-separated `list` such as metrics:read,metrics:write", func(s string) error {
		body["scopes"] = strings.Split(s, ",")
		return nil
	})
	fs.Func("expires-in", "a `duration` such as 30d; without it the token lasts", func(s string) error {
		d, err := model.ParseDuration(s)
		body["expires_at"] = time.Now().Add(time.Duration(d)).UTC()
		return err
	})
	if _, err := c.parse(fs, args, 0); err != nil {
		return err
	}
	return c.showSecret("/admin/v1/tokens", body)
}

func (c *caller) showSecret(path string, body any) error {
	var made admin.SecretToken
	table, err := c.call(http.MethodPost, path, body, &made)
	if err == nil && table {
		fmt.Fprintf(c.stdout, "id       %s\ntoken    %s\n         The token is told this once.\n", made.ID, made.Secret)
	}
	return err
}

func tokenList(c *caller, args []string) error {
	q := url.Values{}
	fs := c.flags("token list")
	fs.Func("tenant", "only those of this `tenant`", func(s string) error { q.Set("tenant", s); return nil })
	if _, err := c.parse(fs, args, 0); err != nil {
		return err
	}
	return c.lazyTable("ID TENANT NAME SCOPES POLICY EXPIRES USED", func(row func(...any)) error {
		return pages(func(after string) (string, bool, error) {
			q.Set("after", after)
			q.Set("limit", "1000")
			var page admin.TokenPage
			table, err := c.call(http.MethodGet, "/admin/v1/tokens?"+q.Encode(), nil, &page)
			for _, t := range page.Tokens {
				row(t.ID, t.Tenant, t.Name, strings.Join(t.Scopes.Names(), ","), t.LabelPolicy, t.ExpiresAt, t.LastUsedAt)
			}
			return page.Next, table, err
		})
	})
}

func tokenRevoke(c *caller, args []string) error {
	names, err := c.parse(c.flags("token revoke <id>"), args, 1)
	if err != nil {
		return err
	}
	_, err = c.call(http.MethodDelete, "/admin/v1/tokens/"+url.PathEscape(names[0]), nil, nil)
	return err
}

func tokenRotate(c *caller, args []string) error {
	names, err := c.parse(c.flags("token rotate <id>"), args, 1)
	if err != nil {
		return err
	}
	return c.showSecret("/admin/v1/tokens/"+url.PathEscape(names[0])+"/rotate", nil)
}

func planSet(c *caller, args []string) error {
	req := admin.PlanRequest{Limits: tenant.Overrides{}}
	fs := c.flags("plan set <name>")
	limitFlag(fs, req.Limits)
	names, err := c.parse(fs, args, 1)
	if err != nil {
		return err
	}
	return c.lazyTable("NAME SOURCE LIMITS", func(row func(...any)) error {
		var p tenant.Plan
		_, err := c.call(http.MethodPut, "/admin/v1/plans/"+url.PathEscape(names[0]), req, &p)
		row(p.Name, p.Source, limitsText(p.Limits))
		return err
	})
}

func limitsText(o tenant.Overrides) string {
	var parts []string
	for _, name := range sortedKeys(o) {
		parts = append(parts, name+"="+strings.Trim(string(o[name]), `"`))
	}
	return strings.Join(parts, " ")
}

func planList(c *caller, args []string) error {
	if _, err := c.parse(c.flags("plan list"), args, 0); err != nil {
		return err
	}
	return c.lazyTable("NAME SOURCE LIMITS", func(row func(...any)) error {
		var list admin.PlanList
		_, err := c.call(http.MethodGet, "/admin/v1/plans", nil, &list)
		for _, p := range list.Plans {
			row(p.Name, p.Source, limitsText(p.Limits))
		}
		return err
	})
}

func planDelete(c *caller, args []string) error {
	names, err := c.parse(c.flags("plan delete <name>"), args, 1)
	if err != nil {
		return err
	}
	_, err = c.call(http.MethodDelete, "/admin/v1/plans/"+url.PathEscape(names[0]), nil, nil)
	return err
}

// periodQuery adds the flags that usage and audit share.
func (c *caller) periodQuery(name string, args []string) (url.Values, error) {
	q := url.Values{}
	fs := c.flags(name)
	for _, p := range []string{"tenant", "from", "to"} {
		fs.Func(p, "only of this `"+p+"`; times as RFC 3339 or in seconds since 1970", func(s string) error { q.Set(p, s); return nil })
	}
	_, err := c.parse(fs, args, 0)
	return q, err
}

func usageShow(c *caller, args []string) error {
	q, err := c.periodQuery("usage", args)
	if err != nil {
		return err
	}
	return c.lazyTable("HOUR TENANT SAMPLES REFUSED BYTES SERIES QUERIES SERIES-READ SAMPLES-READ BYTES-READ EVALUATIONS NOTIFICATIONS BYTES-STORED", func(row func(...any)) error {
		var u admin.UsageAnswer
		_, err := c.call(http.MethodGet, "/admin/v1/usage?"+q.Encode(), nil, &u)
		for _, h := range u.Hours {
			refused := int64(0)
			for _, n := range h.SamplesRefused {
				refused += n
			}
			row(h.Hour, h.Tenant, h.SamplesStored, refused, h.BytesReceived, h.SeriesPeak, h.Queries, h.SeriesRead,
				h.SamplesRead, h.BytesRead, h.RuleEvaluations, h.Notifications, h.BytesStored)
		}
		return err
	})
}

func auditShow(c *caller, args []string) error {
	q, err := c.periodQuery("audit", args)
	if err != nil {
		return err
	}
	return c.lazyTable("AT BY ACTION TENANT OBJECT DETAIL", func(row func(...any)) error {
		var a admin.AuditAnswer
		_, err := c.call(http.MethodGet, "/admin/v1/audit?"+q.Encode(), nil, &a)
		for _, e := range a.Entries {
			row(e.At, e.By, e.Action, e.Tenant, e.Object, e.Detail)
		}
		return err
	})
}
