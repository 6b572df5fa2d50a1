package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/stretchr/testify/require"
)

// provisioned is as much of the answer that makes a tenant as clients need.
type provisioned struct {
	ID        string `json:"id"`     // of a token
	Secret    string `json:"secret"` // of a token
	Token     struct{ ID, Secret string }
	Snippets  struct{ Prometheus string }
	Endpoints struct{ Prometheus string }
}

// admin sends a request to the API of tenants.
func (e *endpoint) admin(want int, method, path, body string) provisioned {
	e.t.Helper()
	return e.adminAs("", want, method, path, body)
}

// adminAs is admin with an operator's token.
func (e *endpoint) adminAs(token string, want int, method, path, body string) provisioned {
	e.t.Helper()
	var header http.Header
	if token != "" {
		header = http.Header{"Authorization": {"Bearer " + token}}
	}
	status, text, err := e.do(method, path, "", header, []byte(body))
	require.NoError(e.t, err)
	require.Equal(e.t, want, status, text)
	var p provisioned
	if text != "" {
		require.NoError(e.t, json.Unmarshal([]byte(text), &p))
	}
	return p
}

// as asks with a token and returns the status.
func (e *endpoint) as(token, method, path string) int {
	e.t.Helper()
	status, _, err := e.do(method, path, "", http.Header{"Authorization": {"Bearer " + token}}, nil)
	require.NoError(e.t, err)
	return status
}

// operator is the operator's token of a cluster that asks for one. The processes
// start at once, so any of them may have made it.
func (c *cluster) operator() string {
	c.t.Helper()
	var token string
	until(c.t, patience, "an operator's token", func() error {
		for _, n := range c.nodes {
			text, err := os.ReadFile(filepath.Join(n.dir, "operator-token"))
			if err != nil {
				continue
			}
			token = strings.TrimSpace(string(text))
			if got := c.nodes[0].as(token, http.MethodGet, "/admin/v1/tenants"); got == http.StatusOK {
				return nil
			}
		}
		return errors.New("no process has one that is good")
	})
	return token
}

// everywhere waits until every process answers a token's query with a status.
func (c *cluster) everywhere(token string, want int, what string) {
	c.t.Helper()
	began := time.Now()
	for _, n := range c.nodes {
		until(c.t, patience, what+" on "+n.name, func() error {
			if got := n.as(token, http.MethodGet, "/prometheus/api/v1/query?query=1"); got != want {
				return fmt.Errorf("answered %d", got)
			}
			return nil
		})
	}
	c.t.Logf("%s everywhere after %s", what, time.Since(began).Round(time.Millisecond))
}

// A tenant that one process makes is known to all, and a token that one
// revokes is refused by all, within seconds.
func TestTenantsInACluster(t *testing.T) {
	c := newCluster(t)
	c.add("node", 3, nil, "")
	c.nodes[0].admin(http.StatusCreated, http.MethodPost, "/admin/v1/tenants", `{"id":"acme"}`)
	reader := c.nodes[1].admin(http.StatusCreated, http.MethodPost, "/admin/v1/tokens", `{"tenant":"acme","scopes":["metrics:read"]}`)
	c.everywhere(reader.Secret, http.StatusOK, "let in")
	for _, n := range c.nodes {
		require.Equal(t, http.StatusForbidden, n.as(reader.Secret, http.MethodPost, "/api/v1/push"))
	}
	c.nodes[2].admin(http.StatusOK, http.MethodPatch, "/admin/v1/tenants/acme", `{"status":"suspended"}`)
	c.everywhere(reader.Secret, http.StatusForbidden, "suspended")
	c.nodes[0].admin(http.StatusOK, http.MethodPatch, "/admin/v1/tenants/acme", `{"status":"active"}`)
	c.everywhere(reader.Secret, http.StatusOK, "let in again")
	c.nodes[1].admin(http.StatusNoContent, http.MethodDelete, "/admin/v1/tokens/"+reader.ID, "")
	c.everywhere(reader.Secret, http.StatusUnauthorized, "revoked")
}

// What was made is there after a crash.
func TestTenantsAfterACrash(t *testing.T) {
	h := startHearth(t)
	made := h.admin(http.StatusCreated, http.MethodPost, "/admin/v1/tenants", `{"id":"acme"}`)
	h.kill()
	h.start()
	require.Equal(t, http.StatusOK, h.as(made.Token.Secret, http.MethodGet, "/prometheus/api/v1/query?query=1"))
	again := h.admin(http.StatusOK, http.MethodPost, "/admin/v1/tenants", `{"id":"acme"}`)
	require.Empty(t, again.Token.Secret)
}

// Whichever moment a process is killed at while tenants are made and deleted,
// each of them is there whole, or not at all, and every request can be sent
// again.
func TestTenantsAfterCrashesMeanwhile(t *testing.T) {
	h := startHearth(t)
	for round := range 3 {
		made := h.killedWhile(func(web *endpoint, n int) (string, bool) {
			id := fmt.Sprintf("t-%d-%d", round, n)
			status, text, err := web.do(http.MethodPost, "/admin/v1/tenants", "", nil, []byte(`{"id":"`+id+`"}`))
			if err != nil || status != http.StatusCreated {
				return id, false
			}
			var p provisioned
			if err := json.Unmarshal([]byte(text), &p); err != nil {
				t.Error(err)
			}
			if n%2 == 1 {
				status, _, err = web.do(http.MethodDelete, "/admin/v1/tenants/"+id, "", nil, nil)
				return id + " " + p.Token.Secret + " deleted", err == nil && status == http.StatusAccepted
			}
			return id + " " + p.Token.Secret, true
		})
		h.start()
		for told, acknowledged := range made {
			h.checkWhole(told, acknowledged)
		}
	}
	var list struct{ Tenants []struct{ ID, Status string } }
	h.list("/admin/v1/tenants?limit=1000", &list)
	var tokens struct{ Tokens []struct{ ID, Tenant string } }
	h.list("/admin/v1/tokens?limit=1000", &tokens)
	of := map[string]int{}
	for _, token := range tokens.Tokens {
		of[token.Tenant]++
	}
	for _, x := range list.Tenants {
		require.Equal(t, 1, of[x.ID], "tokens of %s", x.ID)
		delete(of, x.ID)
	}
	require.Empty(t, of, "tokens of nobody")
	require.NotEmpty(t, list.Tenants)
}

// killedWhile has four clients do something again and again, and kills the
// process when each has been answered a few times. It returns what they were
// told, and whether they had an answer.
func (h *hearth) killedWhile(do func(web *endpoint, n int) (string, bool)) map[string]bool {
	h.t.Helper()
	const clients, enough = 4, 24
	var (
		all  sync.WaitGroup
		mu   sync.Mutex
		told = map[string]bool{}
	)
	reached := make(chan struct{})
	for client := range clients {
		all.Go(func() {
			for n := client; ; n += clients {
				what, ok := do(&h.endpoint, n)
				mu.Lock()
				told[what] = ok
				if len(told) == enough {
					close(reached)
				}
				mu.Unlock()
				if !ok {
					return // it was killed
				}
			}
		})
	}
	select {
	case <-reached:
	case <-time.After(patience):
		h.t.Error("hearth does not answer")
	}
	h.kill()
	all.Wait()
	return told
}

// checkWhole holds what there is of a tenant against what was told of it.
func (h *hearth) checkWhole(told string, acknowledged bool) {
	h.t.Helper()
	words := strings.Fields(told)
	id, deleted := words[0], len(words) == 3
	if len(words) > 1 { // its making was acknowledged
		want := http.StatusOK
		got := h.as(words[1], http.MethodGet, "/prometheus/api/v1/query?query=1")
		if deleted {
			want = http.StatusForbidden
		}
		if acknowledged || !deleted {
			require.Equal(h.t, want, got, told)
		}
		return
	}
	again, _, err := h.do(http.MethodPost, "/admin/v1/tenants", "", nil, []byte(`{"id":"`+id+`"}`))
	require.NoError(h.t, err)
	require.Contains(h.t, []int{http.StatusOK, http.StatusCreated}, again, told)
}

func (e *endpoint) list(path string, into any) {
	e.t.Helper()
	status, text, err := e.do(http.MethodGet, path, "", nil, nil)
	require.NoError(e.t, err)
	require.Equal(e.t, http.StatusOK, status, text)
	require.NoError(e.t, json.Unmarshal([]byte(text), into))
}

// Several tenants of a cluster are read as one, from any process, what is in
// memory as what is in the bucket; who has no right to one of them reads none.
func TestSeveralTenantsInACluster(t *testing.T) {
	c := newCluster(t)
	c.set = []string{"auth.mode=token"}
	c.add("node", 3, nil, "")
	operator := c.operator()
	secrets := map[string]string{}
	for i, id := range []string{"anna", "bert", "own"} {
		made := c.nodes[i].adminAs(operator, http.StatusCreated, http.MethodPost, "/admin/v1/tenants", `{"id":"`+id+`","labels":{"env":"prod"},"limits":{"own_head":`+fmt.Sprint(id == "own")+`}}`)
		secrets[id] = made.Token.Secret
		c.everywhere(made.Token.Secret, http.StatusOK, id+" let in")
	}
	reader := c.nodes[0].adminAs(operator, http.StatusCreated, http.MethodPost, "/admin/v1/tokens", `{"scopes":["metrics:read"]}`)
	at := time.Now().Truncate(time.Second)
	for i, id := range []string{"anna", "bert", "own"} {
		body, err := remoteWrite1.encode([]series{{labels: labels.FromStrings("__name__", "shared", "from", id), points: []point{{t: at.UnixMilli(), v: float64(i)}}}})
		require.NoError(t, err)
		header := remoteWrite1.header.Clone()
		header.Set("Authorization", "Bearer "+secrets[id])
		status, text, err := c.nodes[i].do(http.MethodPost, "/api/v1/push", "", header, body)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status, text)
	}
	ask := func(n *node, token, names, expr string) (int, string) {
		status, text, err := n.do(http.MethodGet, fmt.Sprintf("/prometheus/api/v1/query?time=%d&query=%s", at.Unix(), url.QueryEscape(expr)), names,
			http.Header{"Authorization": {"Bearer " + token}}, nil)
		require.NoError(t, err)
		return status, text
	}
	check := func(when string) {
		for _, n := range c.nodes {
			until(t, patience, "the answer of "+n.name+" "+when, func() error {
				for names, want := range map[string]string{"anna|own": `"2"`, `{env="prod"}`: `"3"`, "anna|bert|own": `"3"`} {
					if status, text := ask(n, reader.Secret, names, "count(count by (__tenant_id__) (shared))"); status != http.StatusOK || !strings.Contains(text, want) {
						return fmt.Errorf("%s: %d %s", names, status, text)
					}
				}
				return nil
			})
			status, _ := ask(n, secrets["anna"], "anna|bert", "shared")
			require.Equal(t, http.StatusForbidden, status)
		}
	}
	check("from memory")
	for _, n := range c.nodes {
		status, text, err := n.do(http.MethodPost, "/ingester/flush?wait=true", "", http.Header{"Authorization": {"Bearer " + operator}}, nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status, text)
	}
	check("when it is in the bucket too")
}
