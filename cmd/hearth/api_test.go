package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/app"
	"github.com/hearth-metrics/hearth/tenant/admin"
)

// startAsking starts a Hearth that asks for tokens, and returns its folder and
// what runs a command against it.
func startAsking(t *testing.T) (dir string, hearth func(code int, args ...string) string) {
	t.Helper()
	cfg := app.DefaultConfig()
	cfg.DataDir = t.TempDir()
	cfg.Server.HTTPListenAddress, cfg.Server.GRPCListenAddress = "127.0.0.1:0", "127.0.0.1:0"
	cfg.Auth.Mode = "token"
	a, err := app.New(cfg, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.NoError(t, a.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, a.Stop()) })
	t.Setenv("HEARTH_ADDRESS", "http://"+a.Addr())
	t.Setenv("HEARTH_TOKEN", "")
	return cfg.DataDir, func(code int, args ...string) string {
		t.Helper()
		return command(t, code, args...)
	}
}

// command runs the program, and returns all that it prints.
func command(t *testing.T, code int, args ...string) string {
	t.Helper()
	var out, errs bytes.Buffer
	require.Equal(t, code, run(args, &out, &errs), "%v: %s%s", args, out.String(), errs.String())
	return out.String() + errs.String()
}

// The commands, against a Hearth that asks for tokens.
func TestCommandsSpeakTheAPI(t *testing.T) {
	dir, hearth := startAsking(t)
	require.Contains(t, hearth(exitFailure, "tenant", "list"), "err-token-missing")
	t.Setenv("HEARTH_TOKEN_FILE", filepath.Join(dir, "operator-token"))

	require.Contains(t, hearth(exitOK, "plan", "set", "small", "-limit", "max_series=100", "-limit", "max_query_length=1d"), "max_query_length=1d max_series=100")
	out := hearth(exitOK, "tenant", "create", "acme", "-plan", "small", "-label", "env=prod", "-name", "Acme")
	require.Contains(t, out, "hearth_")
	require.Contains(t, out, "remote_write:")
	require.Contains(t, hearth(exitOK, "tenant", "create", "acme", "-plan", "small", "-label", "env=prod", "-name", "Acme"), "already")
	require.Contains(t, hearth(exitOK, "tenant", "list", "-label", "env=prod"), "acme")
	require.NotContains(t, hearth(exitOK, "tenant", "list", "-label", "env=test"), "acme")
	require.Regexp(t, `max_series +100 +plan`, hearth(exitOK, "tenant", "limits", "acme"))
	require.Contains(t, hearth(exitOK, "tenant", "update", "acme", "-status", "read_only", "-limit", "max_series=200"), "read_only")
	require.Regexp(t, `max_series +200 +tenant`, hearth(exitOK, "tenant", "limits", "acme"))

	var made admin.SecretToken
	require.NoError(t, json.Unmarshal([]byte(hearth(exitOK, "token", "create", "-tenant", "acme", "-scopes", "metrics:read", "-expires-in", "30d", "-o", "json")), &made))
	require.Contains(t, hearth(exitOK, "token", "list", "-tenant", "acme"), made.ID)
	require.NotContains(t, hearth(exitOK, "token", "rotate", made.ID), made.Secret)
	hearth(exitOK, "token", "revoke", made.ID)
	require.NotContains(t, hearth(exitOK, "token", "list"), made.ID)
	require.Contains(t, hearth(exitOK, "audit"), "token.revoke")
	require.Contains(t, hearth(exitOK, "usage"), "HOUR")

	require.Contains(t, hearth(exitOK, "tenant", "delete", "acme"), "deleting")
	require.Contains(t, hearth(exitOK, "tenant", "undelete", "acme"), "read_only")
	require.Contains(t, hearth(exitFailure, "tenant", "show", "nobody"), "err-not-found")
	require.Contains(t, hearth(exitUsage, "tenant", "eat"), "there are create")
	require.Contains(t, hearth(exitUsage, "tenant", "show"), "want 1 names")
	require.True(t, strings.HasPrefix(hearth(exitOK, "tenant", "list", "-o", "json"), "{"))
}
