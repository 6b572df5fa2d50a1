package bucket

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

func TestSecretIsNeverPrinted(t *testing.T) {
	t.Parallel()
	cfg := DefaultConfig()
	require.NoError(t, yaml.Unmarshal([]byte("type: s3\ns3: {endpoint: h, bucket: b, access_key_id: id, secret_access_key: geheim}"), &cfg))
	require.NoError(t, cfg.Validate())
	require.Equal(t, "geheim", string(cfg.S3.SecretAccessKey))
	asYAML, err := yaml.Marshal(cfg)
	require.NoError(t, err)
	asJSON, err := json.Marshal(cfg)
	require.NoError(t, err)
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "cfg", cfg, "secret", cfg.S3.SecretAccessKey)
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "cfg", cfg, "secret", cfg.S3.SecretAccessKey)
	for _, printed := range []string{string(asYAML), string(asJSON), log.String(), fmt.Sprintf("%v %+v %#v %s", cfg, cfg, cfg, cfg.S3.SecretAccessKey)} {
		require.NotContains(t, printed, "geheim")
		require.Contains(t, printed, "********")
	}
	empty, err := yaml.Marshal(DefaultConfig())
	require.NoError(t, err)
	require.NotContains(t, string(empty), "***")
}

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	s3 := func(change func(*S3Config)) Config {
		c := Config{Type: TypeS3, S3: S3Config{Endpoint: "h:1", Bucket: "b", AccessKeyID: "i", SecretAccessKey: "s", Prefix: "a/b"}}
		change(&c.S3)
		return c
	}
	for _, c := range []struct {
		cfg  Config
		want string
	}{
		{DefaultConfig(), ""},
		{s3(func(*S3Config) {}), ""},
		{s3(func(c *S3Config) { c.AccessKeyID, c.SecretAccessKey = "", "" }), ""},
		{Config{Type: "gcs"}, `type is "gcs"`},
		{s3(func(c *S3Config) { c.Endpoint = "" }), "s3.endpoint"},
		{s3(func(c *S3Config) { c.Endpoint = "https://h" }), "without scheme"},
		{s3(func(c *S3Config) { c.Bucket = "" }), "s3.bucket"},
		{s3(func(c *S3Config) { c.AccessKeyID = "" }), "both or none"},
		{s3(func(c *S3Config) { c.Prefix = "/a" }), "s3.prefix"},
		{s3(func(c *S3Config) { c.Prefix = "a/" }), "s3.prefix"},
	} {
		err := c.cfg.Validate()
		if c.want == "" {
			require.NoError(t, err, "%+v", c.cfg)
			continue
		}
		require.ErrorContains(t, err, c.want, "%+v", c.cfg)
		_, err = New(c.cfg, t.TempDir(), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
		require.ErrorContains(t, err, c.want, "%+v", c.cfg)
	}
}

func TestNewCountsRequests(t *testing.T) {
	t.Parallel()
	dataDir := t.TempDir()
	reg := prometheus.NewRegistry()
	b, err := New(DefaultConfig(), dataDir, slog.New(slog.DiscardHandler), reg)
	require.NoError(t, err)
	put(t, b, "a/k", "12345")
	require.FileExists(t, filepath.Join(dataDir, "bucket", "a", "k"))
	require.Equal(t, "12345", get(t, b, "a/k"))
	_, err = readRange(t.Context(), b, "a/k", 1, 2)
	require.NoError(t, err)
	_, err = b.Stat(t.Context(), "nothing")
	require.ErrorIs(t, err, ErrNotFound)
	_, err = putIf(b, "a/k", "x", Condition{IfAbsent: true})
	require.ErrorIs(t, err, ErrPrecondition)
	require.NoError(t, b.Delete(t.Context(), "a/k"))
	require.Empty(t, list(t, b, "", true))

	o := b.(*observed)
	for _, c := range []struct {
		operation, outcome string
	}{{opPut, "ok"}, {opGet, "ok"}, {opGetRange, "ok"}, {opStat, "not_found"}, {opPut, "precondition"}, {opDelete, "ok"}, {opList, "ok"}} {
		require.InDelta(t, 1.0, testutil.ToFloat64(o.m.operations.WithLabelValues("", c.operation, c.outcome)), 0, "%+v", c)
	}
	require.InDelta(t, 5.0, testutil.ToFloat64(o.m.bytes.WithLabelValues("", "in")), 0)
	require.InDelta(t, 7.0, testutil.ToFloat64(o.m.bytes.WithLabelValues("", "out")), 0)
	problems, err := testutil.GatherAndLint(reg)
	require.NoError(t, err)
	require.Empty(t, problems)
}
