package alertmanager

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Regular expressions that count are bounded wherever a tenant may have them,
// and those of everyday life are not in the way.
func TestRepeatsAreBounded(t *testing.T) {
	t.Parallel()
	m := newWorld(t, 1).members[0]
	routes := func(n int, expr string) string {
		var b strings.Builder
		b.WriteString("route:\n  receiver: r\n  routes:\n")
		for i := range n {
			fmt.Fprintf(&b, "  - {matchers: ['a=~\"%s%d\"']}\n", expr, i)
		}
		return b.String() + "receivers: [{name: r}]\n"
	}
	code, body := m.do(http.MethodPost, "/api/v1/alerts", document(routes(10_000, "(x|y){1,900}")))
	require.Equal(t, 400, code)
	require.Contains(t, body, "repeats too much")
	const address = `[0-9]{1,3}[.][0-9]{1,3}[.][0-9]{1,3}[.][0-9]{1,3}`
	m.configure(routes(500, address))

	silence := func(expr string) (int, string) {
		return m.do(http.MethodPost, "/alertmanager/api/v2/silences", fmt.Sprintf(
			`{"matchers":[{"name":"a","value":%q,"isRegex":true,"isEqual":true}],"startsAt":"2020-01-01T00:00:00Z","endsAt":"2100-01-01T00:00:00Z","createdBy":"t","comment":"c"}`, expr))
	}
	large := "(" + strings.Repeat("x", 2000) + "){1000}"
	code, body = silence(large)
	require.Equal(t, 400, code)
	require.Contains(t, body, "err-alertmanager-request")
	code, body = silence(address)
	require.Equal(t, 200, code, body)
	code, body = m.do(http.MethodGet, "/alertmanager/api/v2/alerts?filter="+url.QueryEscape(`a=~"`+large+`"`), "")
	require.Equal(t, 400, code, body)

	hookURL, _ := newHook(t)
	for _, call := range []string{`match $x "y"`, `reReplaceAll $x "" "y"`} {
		payload := "{{ $x := `" + large + "` }}{{ range 100000 }}{{ " + call + " }}{{ end }}"
		code, body = m.do(http.MethodPost, "/api/v1/alerts", hook(t, hookURL, payload, nil))
		require.Equal(t, 201, code, body)
		_, body = m.do(http.MethodPost, "/api/v1/alerts/test?receiver=r", "")
		require.Contains(t, body, "repeats too much")
	}
}
