package app

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant"
)

// load writes text to a file and loads it with the environment and -set given.
func load(t *testing.T, text string, env map[string]string, set ...string) (Config, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "h.yaml")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	t.Chdir(filepath.Dir(file))
	return Load(Source{File: "h.yaml", Set: set, Getenv: func(name string) (string, bool) {
		v, ok := env[name]
		return v, ok
	}})
}

func TestLoadWithoutFileIsTheDefaults(t *testing.T) {
	cfg, err := Load(Source{})
	require.NoError(t, err)
	require.Equal(t, DefaultConfig(), cfg)
}

func TestLoadFile(t *testing.T) {
	cfg, err := load(t, `
data_dir: /srv/${WHO}
server: {http_listen_address: ":80", shutdown_timeout: "${WAIT}"}
bucket:
  type: s3
  s3: &creds
    endpoint: localhost:7070
    bucket: b
    access_key_id: 007
    secret_access_key: ${SECRET}
ingester:   # nothing set below
log: {level: "$$warn"}
`, map[string]string{"WHO": "a: b # c", "WAIT": "7s", "SECRET": "null"}, "log.level=warn")
	require.NoError(t, err)
	require.Equal(t, "/srv/a: b # c", cfg.DataDir, "a variable never changes the structure")
	require.Equal(t, ":80", cfg.Server.HTTPListenAddress)
	require.Equal(t, "127.0.0.1:9095", cfg.Server.GRPCListenAddress)
	require.Equal(t, model.Duration(7*time.Second), cfg.Server.ShutdownTimeout)
	require.Equal(t, "007", cfg.Bucket.S3.AccessKeyID)
	require.Equal(t, "null", string(cfg.Bucket.S3.SecretAccessKey))
	require.Equal(t, "warn", cfg.Log.Level)
}

func TestLoadPlansAndGrants(t *testing.T) {
	cfg, err := load(t, `
limits:
  plans: {small: {max_series: 7, max_query_length: 1d}}
  defaults: {max_metadata: 3}
auth:
  mode: token
  oidc:
    issuer: https://id.example.com
    audience: hearth
    grants:
      - claims: {groups: ops, 'https://a.b/c': 7}
        scopes: [operator]
      - tenants: [acme, 007]
        scopes: [metrics:read]
        label_claims: {team: teams}
`, nil)
	require.NoError(t, err)
	require.Equal(t, 7, cfg.Limits.Plans["small"].MaxSeries)
	require.Equal(t, 3, cfg.Limits.Plans["small"].MaxMetadata, "a plan starts from the defaults")
	require.Equal(t, []tenant.Grant{
		{Claims: map[string]string{"groups": "ops", "https://a.b/c": "7"}, Scopes: []string{"operator"}},
		{Tenants: []tenant.ID{"acme", "007"}, Scopes: []string{"metrics:read"}, LabelClaims: map[string]string{"team": "teams"}},
	}, cfg.Auth.OIDC.Grants)
	diff, err := PrintDiff(cfg)
	require.NoError(t, err)
	require.Contains(t, string(diff), "small:\n      max_series: 7\n      max_query_length: 1d\n")
	for text, want := range map[string]string{
		"limits: {plans: {small: {max_serie: 1}}}":                                    `nearest valid key is "limits.plans.small.max_series"`,
		"limits: {plans: {small: {max_series: -1}}}":                                  "limits.plans.small.max_series: must not be negative",
		"limits: {plans: {a/b: {}}}":                                                  "limits.plans",
		"auth: {oidc: {issuer: 'https://x'}}":                                         "auth.oidc.issuer: needs mode token",
		"auth: {mode: token, oidc: {grants: [{scope: x}]}}":                           `nearest valid key is "auth.oidc.grants[0].scopes"`,
		"auth: {mode: token, oidc: {issuer: 'https://x', audience: h, grants: [{}]}}": "auth.oidc.grants[0].scopes: must not be empty",
	} {
		_, err := load(t, text, nil)
		require.ErrorContains(t, err, want, text)
	}
}

func TestSet(t *testing.T) {
	cfg, err := load(t, "data_dir: a\nserver:\nlimits: {tenants: {x: {max_series: 1}}}\n", nil,
		"data_dir=b", "data_dir=c", // the last one holds
		"server.http_listen_address=[::]:9009", // not YAML, still text
		"server.grpc_listen_address=:1",
		`limits.tenants."team.a"={max_series: 2, out_of_order_window: 2h}`,
		"limits.tenants.x.max_metadata=3",
		"limits.defaults.max_series=9",
		"bucket.s3.prefix=",
	)
	require.NoError(t, err)
	require.Equal(t, "c", cfg.DataDir)
	require.Equal(t, "[::]:9009", cfg.Server.HTTPListenAddress)
	require.Equal(t, ":1", cfg.Server.GRPCListenAddress)

	want := tenant.DefaultLimits()
	want.MaxSeries = 9
	require.Equal(t, want, cfg.Limits.Defaults)
	x := want // a tenant starts from the defaults, whatever the order they are given in
	x.MaxSeries, x.MaxMetadata = 1, 3
	a := want
	a.MaxSeries, a.OutOfOrderWindow = 2, model.Duration(2*time.Hour)
	require.Equal(t, map[tenant.ID]tenant.Limits{"x": x, "team.a": a}, cfg.Limits.Tenants)
}

func TestLoadErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		set  []string
		want string
	}{
		"unknown key":             {"server:\n  http_listen_addr: x", nil, `h.yaml:2: unknown key "server.http_listen_addr", the nearest valid key is "server.http_listen_address"`},
		"right key, wrong place":  {"grpc_listen_address: x", nil, `h.yaml:1: unknown key "grpc_listen_address", the nearest valid key is "server.grpc_listen_address"`},
		"unknown section":         {"buckets: {type: s3}", nil, `h.yaml:1: unknown key "buckets", the nearest valid key is "bucket"`},
		"unknown limit":           {"limits: {tenants: {a: {max_serie: 1}}}", nil, `h.yaml:1: unknown key "limits.tenants.a.max_serie", the nearest valid key is "limits.tenants.a.max_series"`},
		"a tenant's own section":  {"limits: {tenants: {max_serie: 1}}", nil, `h.yaml:1: limits.tenants.max_serie: want keys and values, got "1"`},
		"unknown key in -set":     {"", []string{"data_dri=x"}, `-set data_dri: unknown key "data_dri", the nearest valid key is "data_dir"`},
		"twice":                   {"data_dir: a\n\ndata_dir: b", nil, `h.yaml:3: key "data_dir" is given twice, first in line 1`},
		"text for a number":       {"limits:\n  defaults:\n    max_series: many", nil, `h.yaml:3: limits.defaults.max_series: want a whole number, got "many"`},
		"fraction for a number":   {"limits: {defaults: {max_series: 1.5}}", nil, `h.yaml:1: limits.defaults.max_series: want a whole number, got "1.5"`},
		"list for text":           {"data_dir: [a]", nil, `h.yaml:1: data_dir: want text, got a list`},
		"text for a section":      {"server: yes please", nil, `h.yaml:1: server: want keys and values, got "yes please"`},
		"duration":                {"server: {shutdown_timeout: 5}", nil, `h.yaml:1: server.shutdown_timeout: want a duration such as 30s or 2h: `},
		"duration in -set":        {"", []string{"server.shutdown_timeout=soon"}, `-set server.shutdown_timeout: server.shutdown_timeout: want a duration such as 30s or 2h: `},
		"bool":                    {"limits: {defaults: {own_head: 3}}", nil, `h.yaml:1: limits.defaults.own_head: want true or false, got "3"`},
		"tenant id":               {"limits: {tenants: {a/b: {}}}", nil, `h.yaml:1: limits.tenants.a/b: tenant id has the character '/'`},
		"variable":                {"\ndata_dir: ${NOPE}/x", nil, `h.yaml:2: environment variable NOPE is not set`},
		"open brace":              {"data_dir: a${NOPE", nil, `h.yaml:1: "${NOPE" has no closing brace`},
		"no YAML":                 {"a: [", nil, `h.yaml: yaml: line 1`},
		"two documents":           {"data_dir: a\n---\ndata_dir: b", nil, `h.yaml: holds more than one YAML document`},
		"anchor in itself":        {"bucket: &a {s3: *a}", nil, `h.yaml:1: anchor "a" contains itself`},
		"-set without value":      {"", []string{"data_dir"}, `-set data_dir: want path=value`},
		"-set without path":       {"", []string{"=x"}, `-set : want path=value`},
		"-set below a value":      {"", []string{"data_dir=a", "data_dir.b=c"}, `-set data_dir.b: data_dir is "a", it has no keys`},
		"target unknown":          {"target: all,kitchen", nil, `target: "kitchen" is unknown, valid are distributor, ingester, querier, storegateway, compactor, ruler, alertmanager, write, read, backend and all`},
		"log level":               {"log: {level: loud}", nil, `log.level: want debug, info, warn or error, got "loud"`},
		"address":                 {"server: {http_listen_address: 9009}", nil, `server.http_listen_address: want host:port or :port, got "9009"`},
		"a part's own validation": {"bucket: {type: tape}", nil, `bucket.type`},
		"negative limit":          {"limits: {tenants: {a: {max_series: -1}}}", nil, `limits.tenants.a.max_series: must not be negative, 0 means no limit`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, tc.text, nil, tc.set...)
			require.ErrorContains(t, err, tc.want)
		})
	}
}

func TestLoadReportsAllErrors(t *testing.T) {
	_, err := load(t, "data_dri: a\nlog: {level: 5, leval: 6}\nserver: {shutdown_timeout: x}", nil)
	for _, want := range []string{"h.yaml:1", "h.yaml:2", "h.yaml:3"} {
		require.ErrorContains(t, err, want)
	}
}

func TestLoadMissingFile(t *testing.T) {
	_, err := Load(Source{File: filepath.Join(t.TempDir(), "none.yaml")})
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestPrint(t *testing.T) {
	cfg, err := load(t, "bucket: {type: s3, s3: {endpoint: e, bucket: b, access_key_id: k, secret_access_key: hush}}\nlimits: {defaults: {max_series: 7}, tenants: {a: {max_series: 8}}}", nil)
	require.NoError(t, err)

	full, err := Print(cfg)
	require.NoError(t, err)
	require.NotContains(t, string(full), "hush")

	diff, err := PrintDiff(cfg)
	require.NoError(t, err)
	require.YAMLEq(t, `
bucket: {type: s3, s3: {endpoint: e, bucket: b, access_key_id: k, secret_access_key: "********"}}
limits: {defaults: {max_series: 7}, tenants: {a: {max_series: 8}}}
`, string(diff))
}

func TestPrintCanBeLoaded(t *testing.T) {
	cfg, err := load(t, "", nil, "limits.tenants.a.max_series=8", "limits.defaults.out_of_order_window=1d", "server.shutdown_timeout=90s")
	require.NoError(t, err)
	text, err := Print(cfg)
	require.NoError(t, err)
	again, err := load(t, string(text), nil)
	require.NoError(t, err)
	require.Equal(t, cfg, again)
}

func FuzzLoad(f *testing.F) {
	f.Add("server: {http_listen_address: ':1'}", "limits.tenants.a.max_series=1")
	f.Add("a: &x [*x]\n", `limits.tenants."a.b"={}`)
	f.Add("limits: {tenants: {a: }}\n", "limits=&a [*a]")
	f.Fuzz(func(t *testing.T, text, set string) {
		file := filepath.Join(t.TempDir(), "h.yaml")
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		_, _ = Load(Source{File: file, Set: []string{set}, Getenv: func(string) (string, bool) { return "v", true }})
	})
}
