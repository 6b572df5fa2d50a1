package alertmanager

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// One process: a configuration, an alert, one mail; its end, one more.
func TestOneMail(t *testing.T) {
	t.Parallel()
	w, box := newWorld(t, 1), newMailbox(t)
	m := w.members[0]
	m.listed()
	m.fire("TooEarly") // nobody is configured to hear of it, and that is no error
	m.configure(box.config())
	m.fire("Fire")
	m.fire("Fire")
	require.Equal(t, "firing Fire", box.next())
	m.resolve("Fire")
	require.Equal(t, "resolved Fire", box.next())
	w.settle(box, m)
	require.Empty(t, box.in)
}

// Three replicas, still one mail.
func TestOneMailOfThree(t *testing.T) {
	t.Parallel()
	w, box := newWorld(t, 3), newMailbox(t)
	w.members[0].configure(box.config())
	for i, m := range w.members {
		name := "Fire" + m.id
		m.fire(name)
		require.Equal(t, "firing "+name, box.next())
		w.ping(box, w.members[(i+1)%3])
		m.resolve(name)
		require.Equal(t, "resolved "+name, box.next())
	}
	w.settle(box, w.members[0])
	require.Empty(t, box.in)
}

func TestConfigAPI(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	m := w.members[0]
	m.listed()
	code, body := m.do(http.MethodGet, "/api/v1/alerts", "")
	require.Equal(t, 404, code)
	require.Contains(t, body, "alertmanager storage object not found")
	code, _ = m.do(http.MethodDelete, "/api/v1/alerts", "")
	require.Equal(t, 200, code)
	code, body = m.do(http.MethodGet, "/alertmanager/api/v2/alerts", "")
	require.Equal(t, 404, code)
	require.Contains(t, body, "the Alertmanager is not configured")

	one := "route: {receiver: one}\nreceivers: [{name: one}]"
	m.configure(one)
	m.configure(strings.ReplaceAll(one, "one", "two"))
	code, body = m.do(http.MethodGet, "/api/v1/alerts", "")
	require.Equal(t, 200, code)
	require.Contains(t, body, "receivers: [{name: two}]")
	code, body = m.do(http.MethodGet, "/alertmanager/api/v2/receivers", "")
	require.Equal(t, 200, code)
	require.Contains(t, body, `"name":"two"`)

	code, body = m.do(http.MethodGet, "/api/v1/alerts/history", "")
	require.Equal(t, 200, code)
	require.Contains(t, body, `"version":1`)
	code, body = m.do(http.MethodPost, "/api/v1/alerts/rollback?version=1", "")
	require.Equal(t, 201, code, body)
	_, body = m.do(http.MethodGet, "/alertmanager/api/v2/receivers", "")
	require.Contains(t, body, `"name":"one"`)
	code, body = m.do(http.MethodPost, "/api/v1/alerts/rollback?version=9", "")
	require.Equal(t, 404, code, body)

	code, _ = m.do(http.MethodDelete, "/api/v1/alerts", "")
	require.Equal(t, 200, code)
	code, _ = m.do(http.MethodGet, "/alertmanager/api/v2/receivers", "")
	require.Equal(t, 404, code)
	here, _ := m.count()
	require.Zero(t, here)
}
