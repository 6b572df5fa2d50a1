//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// tool is a program that `make tools` builds.
func tool(t testing.TB, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", ".cache", name))
	require.NoError(t, err)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no %s: %v (make tools builds it)", name, err)
	}
	return path
}

// startAlertmanagers starts a cluster of Prometheus' own Alertmanager, and waits
// until each knows all.
func startAlertmanagers(t testing.TB, count int, config string) (urls []string) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "alertmanager.yml")
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	var peers []string
	for i := range count {
		web, gossip := freePort(t), fmt.Sprintf("127.0.0.1:%d", freePort(t))
		args := []string{
			"--config.file=" + file, fmt.Sprintf("--storage.path=%s/%d", dir, i),
			fmt.Sprintf("--web.listen-address=127.0.0.1:%d", web),
			"--cluster.listen-address=" + gossip, "--cluster.settle-timeout=10s", "--cluster.peer-timeout=5s",
		}
		for _, p := range peers {
			args = append(args, "--cluster.peer="+p)
		}
		peers, urls = append(peers, gossip), append(urls, fmt.Sprintf("http://127.0.0.1:%d", web))
		out, err := os.Create(filepath.Join(dir, fmt.Sprintf("%d.log", i)))
		require.NoError(t, err)
		cmd := exec.Command(tool(t, "alertmanager"), args...)
		cmd.Stdout, cmd.Stderr = out, out
		exited := spawn(t, cmd)
		require.NoError(t, out.Close())
		t.Cleanup(func() {
			_ = cmd.Process.Kill() // an error says that it is gone already
			<-exited
			if text, _ := os.ReadFile(out.Name()); t.Failed() {
				t.Logf("end of the log of alertmanager %d:\n%s", i, text[max(0, len(text)-4000):])
			}
		})
	}
	for _, url := range urls {
		e := newEndpoint(t, "")
		e.url = url
		until(t, patience, url+" to know all", func() error { return e.settledWith(count) })
	}
	return urls
}

func (e *endpoint) settledWith(count int) error {
	_, body, err := e.get("/api/v2/status")
	if err != nil {
		return err
	}
	var s struct {
		Cluster struct {
			Status string            `json:"status"`
			Peers  []json.RawMessage `json:"peers"`
		} `json:"cluster"`
	}
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		return fmt.Errorf("%w in %s", err, body)
	}
	if s.Cluster.Status != "ready" || len(s.Cluster.Peers) != count {
		return errors.New(body)
	}
	return nil
}

// Alerts for a cluster of Alertmanagers outside of Hearth go to all of them, and
// are one mail.
func TestOneMailFromUpstream(t *testing.T) {
	t.Parallel()
	b := newMailbox(t)
	urls := startAlertmanagers(t, 3, b.receiver())
	h := startHearth(t, fmt.Sprintf("limits.tenants.%s={alertmanager_urls: '%s'}", team, strings.Join(urls, ",")))
	p := watch(t, func() *endpoint { return &h.endpoint })
	for _, name := range []string{"one", "two"} {
		p.set(name, 0)
		b.expect("firing " + name)
		for _, url := range urls {
			e := newEndpoint(t, "")
			e.url = url
			until(t, patience, "the alert on "+url, func() error {
				if _, body, err := e.get("/api/v2/alerts"); err != nil || !strings.Contains(body, `"`+name+`"`) {
					return fmt.Errorf("%s %w", body, err)
				}
				return nil
			})
		}
		p.set(name, 1)
		b.expect("resolved " + name)
	}
	b.expectNone()
}

// amtool runs Prometheus' tool as the team.
type amtool struct {
	t    testing.TB
	path string
	args []string
}

func newAmtool(t testing.TB, url string) *amtool {
	t.Helper()
	file := filepath.Join(t.TempDir(), "http.yml")
	require.NoError(t, os.WriteFile(file, []byte("http_headers: {X-Scope-OrgID: {values: ["+team+"]}}\n"), 0o600))
	return &amtool{t: t, path: tool(t, "amtool"), args: []string{"--alertmanager.url=" + url, "--http.config.file=" + file}}
}

// run returns what it printed.
func (a *amtool) run(args ...string) string {
	a.t.Helper()
	cmd := exec.Command(a.path, slices.Concat(a.args, args)...)
	cmd.Env = append(os.Environ(), "HOME="+a.t.TempDir()) // it looks there for a configuration
	out, err := cmd.CombinedOutput()
	require.NoError(a.t, err, "amtool %v: %s", args, out)
	return strings.TrimSpace(string(out))
}

// amtool works with a tenant's Alertmanager as with any.
func TestAmtool(t *testing.T) {
	t.Parallel()
	b := newMailbox(t)
	h := startHearth(t)
	config := b.receiver()
	h.configureAlerts(config)
	am := newAmtool(t, h.url+"/alertmanager")

	file := filepath.Join(t.TempDir(), "alertmanager.yml")
	require.NoError(t, os.WriteFile(file, []byte(config), 0o600))
	require.Contains(t, am.run("check-config", file), "SUCCESS")
	require.Contains(t, am.run("config", "show"), "receiver: mail")
	require.Contains(t, am.run("config", "routes", "show"), "receiver: mail")
	require.Equal(t, "mail", am.run("config", "routes", "test", "name=x"))
	require.Contains(t, am.run("cluster", "show"), "disabled")

	require.NotContains(t, am.run("alert", "query", "--inhibited", "--silenced", "name=quiet"), "ProbeFails")
	id := am.run("silence", "add", "--author=e2e", "--duration=1h", "--comment=known", "name=quiet")
	require.Regexp(t, `^[0-9a-f-]{36}$`, id)
	require.Equal(t, id, am.run("silence", "query", "-q"))
	require.Contains(t, am.run("silence", "query", "-o", "json", "name=quiet"), `"state":"active"`)

	am.run("alert", "add", "ProbeFails", "name=quiet")
	am.run("alert", "add", "ProbeFails", "name=loud")
	b.expect("firing loud")
	require.Contains(t, am.run("alert", "query", "-o", "json", "--silenced", "name=quiet"), id)
	require.NotContains(t, am.run("alert", "query", "-o", "simple"), "quiet")
	require.Contains(t, am.run("alert", "query", "-o", "extended", "name=loud"), "active")

	require.Contains(t, am.run("silence", "update", "--comment=still known", "--duration=2h", id), "still known")
	until(t, patience, "one silence", func() error {
		if ids := strings.Fields(am.run("silence", "query", "-q")); len(ids) != 1 {
			return fmt.Errorf("there are %v", ids)
		}
		return nil
	})
	am.run("silence", "expire", am.run("silence", "query", "-q"))
	require.Empty(t, am.run("silence", "query", "-q"))
	require.Contains(t, am.run("silence", "query", "-q", "--expired"), id)
	b.expect("firing quiet")

	am.run("alert", "add", "--end="+time.Now().Add(-time.Second).UTC().Format(time.RFC3339), "ProbeFails", "name=loud")
	b.expect("resolved loud")
	b.expectNone()
	// As another tenant nothing of this is there.
	status, body, err := h.do(http.MethodGet, "/alertmanager/api/v2/silences", "other", nil, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusNotFound, status, body)
}
