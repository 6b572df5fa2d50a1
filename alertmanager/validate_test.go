package alertmanager

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	yaml "go.yaml.in/yaml/v3"
)

const plain = "route: {receiver: r}\nreceivers:\n- name: r\n"

// Each is refused with an error that says what and where.
func TestConfigRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 1)
	w.limits.MaxAlertConfigSize, w.limits.MaxAlertTemplates, w.limits.MaxAlertTemplateSize = 2000, 2, 100
	m := w.members[0]
	for name, c := range map[string]struct {
		config    string
		templates map[string]string
		want      string
	}{
		"yaml":            {"route:\n  receiver: r\n bad", nil, "line 2"},
		"unknown field":   {plain + "  nonsense_configs: []", nil, "line 4: field nonsense_configs not found"},
		"no route":        {"receivers: [{name: r}]", nil, "no route"},
		"receiver":        {"route: {receiver: other}\nreceivers: [{name: r}]", nil, "undefined receiver"},
		"file":            {plain + "  webhook_configs:\n  - url_file: /etc/passwd", nil, "line 5: url_file"},
		"global file":     {"global: {smtp_auth_password_file: /x}\n" + plain, nil, "smtp_auth_password_file"},
		"deep file":       {plain + "  webhook_configs:\n  - url: http://x\n    http_config: {tls_config: {ca_file: /x}}", nil, "line 6: ca_file"},
		"header file":     {plain + "  webhook_configs:\n  - url: http://x\n    http_config: {http_headers: {A: {files: [/x]}}}", nil, "files"},
		"identity":        {plain + "  sns_configs:\n  - {topic_arn: 'arn:x', sigv4: {region: eu}}", nil, "sigv4.access_key"},
		"tracing":         {plain + "tracing: {endpoint: 'x:1', client_type: http}", nil, "tracing"},
		"template path":   {plain + "templates: [/etc/*]", nil, "line 4: templates"},
		"template name":   {plain, map[string]string{"../x": "x"}, "must not have a path"},
		"template syntax": {plain, map[string]string{"x.tmpl": "\n{{ if }}"}, "x.tmpl:2"},
		"text syntax":     {plain + "  email_configs: [{to: a@b, from: c@d, smarthost: 'h:25', text: '{{ nope }}'}]", nil, `function "nope" not defined`},
		"large":           {plain + "# " + strings.Repeat("x", 3000), nil, "the limit is 2000"},
		"many templates":  {plain, map[string]string{"a": "", "b": "", "c": ""}, "the limit is 2"},
		"large template":  {plain, map[string]string{"a": strings.Repeat("x", 200)}, "the limit is 100"},
		"empty":           {"", nil, "empty"},
	} {
		body, err := yaml.Marshal(UserConfig{TemplateFiles: c.templates, Config: c.config})
		require.NoError(t, err)
		code, answer := m.do(http.MethodPost, "/api/v1/alerts", string(body))
		require.Equal(t, 400, code, "%s: %s", name, answer)
		require.Contains(t, answer, c.want, name)
		require.Contains(t, answer, "err-alertmanager-config", name)
	}
	code, answer := m.do(http.MethodPost, "/api/v1/alerts", "nonsense: 1")
	require.Equal(t, 400, code, answer)
	code, _ = m.do(http.MethodGet, "/api/v1/alerts", "")
	require.Equal(t, 404, code, "nothing was stored")
}

// hook has templates, one of which makes the body of a webhook.
func hook(t *testing.T, url, payload string, templates map[string]string) string {
	t.Helper()
	conf := fmt.Sprintf("%s  webhook_configs:\n  - url: %s\n    payload: {text: %q}\n", plain, url, payload)
	body, err := yaml.Marshal(UserConfig{TemplateFiles: templates, Config: conf})
	require.NoError(t, err)
	return string(body)
}

// What loops or blows up ends soon, and says why; what is useful works.
func TestTemplatesAreBounded(t *testing.T) {
	t.Parallel()
	m := newWorld(t, 1).members[0]
	url, got := newHook(t)
	double := "{{ define \"x0\" }}x{{ end }}"
	for i := range 40 {
		double += fmt.Sprintf("{{ define \"x%d\" }}{{ template \"x%d\" . }}{{ template \"x%d\" . }}{{ end }}", i+1, i, i)
	}
	for name, c := range map[string]struct {
		payload, file, want string
	}{
		"count":       {"{{ range 1000000000 }}{{ end }}", "", "the templates loop"},
		"count out":   {"{{ range 1000000000 }}xxxxxxxxxxxxxxxxxxxxxxxxx{{ end }}", "", "the templates loop"},
		"recursion":   {"{{ template \"r\" . }}", "{{ define \"r\" }}{{ template \"r\" . }}{{ end }}", "the templates loop"},
		"doubling":    {"{{ template \"x40\" . }}", double, "the templates loop"},
		"growth":      {"{{ $x := \"xxxxxxxx\" }}{{ range 60 }}{{ $x = print $x $x }}{{ end }}", "", "a value has more"},
		"list":        {"{{ $l := list 1 }}{{ range 60 }}{{ $l = append $l $l $l $l }}{{ end }}{{ $l }}", "", "a value has more"},
		"json":        {"{{ $l := list 1 }}{{ range 9 }}{{ $l = list $l $l $l $l }}{{ end }}{{ toJson $l }}", "", "a value has more"},
		"width":       {"{{ printf \"%999999d\" 1 }}", "", "widths"},
		"escaped":     {"{{ $x := \"x\" }}{{ range 19 }}{{ $x = print $x $x }}{{ end }}{{ range 10000 }}{{ $x | html }}{{ end }}", "", "the templates loop"},
		"escapes":     {"{{ with list . . . . }}{{ with list . . . . . . . . . }}{{ with list . . . . . . . . . }}{{ with list . . . . . . . . . }}{{ html . }}{{ end }}{{ end }}{{ end }}{{ end }}", "", "a value has more"},
		"work":        {"{{ $x := \"x\" }}{{ range 19 }}{{ $x = print $x $x }}{{ end }}{{ range 1000000 }}{{ if eq (toUpper $x) $x }}{{ end }}{{ end }}", "", "the templates loop"},
		"star":        {"{{ printf \"%*d\" 999999 1 }}", "", "widths"},
		"replacement": {"{{ $x := \"\" }}{{ range 1000 }}{{ $x = print $x \"0123456789\" }}{{ end }}{{ reReplaceAll \"\" $x $x }}", "", "a value has more"},
	} {
		code, body := m.do(http.MethodPost, "/api/v1/alerts", hook(t, url, c.payload, map[string]string{"f": c.file}))
		require.Equal(t, 201, code, body)
		code, body = m.do(http.MethodPost, "/api/v1/alerts/test?receiver=r", "")
		require.Equal(t, 200, code)
		require.Contains(t, body, c.want, name)
	}
	code, body := m.do(http.MethodPost, "/api/v1/alerts", hook(t, url, `{{ template "mine" . }} {{ template "hearth.chat.title" . }} {{ printf "%05.1f" 1.5 }} {{ .CommonLabels.alertname | toUpper | html }}`,
		map[string]string{"f": `{{ define "mine" }}{{ range .Alerts }}{{ with .Annotations.summary }}{{ . }}{{ end }}{{ end }}{{ end }}`}))
	require.Equal(t, 201, code, body)
	_, body = m.do(http.MethodPost, "/api/v1/alerts/test?receiver=r", `{"labels": {"alertname": "A&B"}}`)
	require.JSONEq(t, `[{"integration": "webhook", "index": 0}]`, body)
	select {
	case sent := <-got:
		require.JSONEq(t, `{"text": "A test notification. [FIRING:1] A&B 001.5 A&amp;B"}`, sent)
	case <-time.After(10 * time.Second):
		require.FailNow(t, "nothing was sent")
	}
	code, body = m.do(http.MethodPost, "/api/v1/alerts/test?receiver=other", "")
	require.Equal(t, 404, code, body)
}

// Private addresses are not called where that is set: by whatever name, nor by a
// way round.
func TestFirewall(t *testing.T) {
	t.Parallel()
	url, got := newHook(t)
	box := newMailbox(t)
	var around atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		around.Add(1)
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"access_token": "x", "token_type": "bearer"}`)
	}))
	t.Cleanup(other.Close)
	webhook := func(more string) string { return plain + "  webhook_configs: [{url: '" + url + "'" + more + "}]" }
	for _, c := range []struct{ allowed, want string }{{"", "err-receiver-address"}, {"127.0.0.0/8, ::1", ""}} {
		w := newWorldOf(t, 1, func(w *world) { w.cfg.PrivateAddresses, w.cfg.AllowedNetworks = Block, c.allowed })
		m := w.members[0]
		for _, conf := range []string{
			webhook(""),
			strings.Replace(webhook(""), "127.0.0.1", "localhost", 1),
			strings.Replace(webhook(""), "127.0.0.1", "[::ffff:127.0.0.1]", 1),
			webhook(", http_config: {proxy_url: '" + other.URL + "'}"),
			webhook(", http_config: {oauth2: {client_id: x, client_secret: y, token_url: '" + other.URL + "'}}"),
			strings.Replace(box.config(), "name: mail", "name: r", 1) + "- name: mail\n",
			strings.Replace(strings.Replace(box.config(), "name: mail", "name: r", 1), "127.0.0.1", "localhost", 1) + "- name: mail\n",
		} {
			m.configure(conf)
			_, body := m.do(http.MethodPost, "/api/v1/alerts/test?receiver=r", "")
			if c.want != "" {
				require.Contains(t, body, c.want, conf)
				continue
			}
			require.NotContains(t, body, "error", conf)
		}
	}
	require.Len(t, got, 4, "those that go to the webhook, and only in the second round")
	require.EqualValues(t, 2, around.Load(), "the proxy and the tokens")
	for range 2 {
		require.Equal(t, "firing TestAlert", box.next())
	}
	require.Empty(t, box.in)
}

// A redirect from an address that may be called to one that may not gets nowhere.
func TestFirewallRedirect(t *testing.T) {
	t.Parallel()
	url, got := newHook(t)
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Skip("needs a second loopback address")
	}
	outside := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.RedirectHandler(url, http.StatusTemporaryRedirect)}}
	outside.Start()
	t.Cleanup(outside.Close)
	for allowed, want := range map[string]int{"127.0.0.2": 0, "127.0.0.2,127.0.0.1": 1} {
		w := newWorldOf(t, 1, func(w *world) { w.cfg.PrivateAddresses, w.cfg.AllowedNetworks = Block, allowed })
		w.members[0].configure(plain + "  webhook_configs: [{url: '" + outside.URL + "'}]")
		_, body := w.members[0].do(http.MethodPost, "/api/v1/alerts/test?receiver=r", "")
		require.Equal(t, want == 0, strings.Contains(body, "err-receiver-address"), body)
		require.Len(t, got, want)
		for range want {
			<-got
		}
	}
}

// A name that is public when it is first looked up, and private when it is
// dialled, is not called: what is dialled is what is checked.
func TestFirewallChecksWhatIsDialled(t *testing.T) {
	t.Parallel()
	door, err := newFirewall(Config{PrivateAddresses: Block, AllowedNetworks: "10.1.2.0/24"})
	require.NoError(t, err)
	f := func(address string, allowed bool) {
		t.Helper()
		require.Equal(t, allowed, door.check(netip.MustParseAddr(address)) == nil, address)
	}
	f("8.8.8.8", true)
	f("2001:4860:4860::8888", true)
	f("10.1.2.3", true)
	for _, inside := range []string{
		"10.1.3.3", "127.0.0.1", "127.9.9.9", "0.0.0.0", "169.254.169.254", "172.16.0.1", "192.168.1.1", "100.64.0.1", "224.0.0.1", "255.255.255.255",
		"::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "::7f00:1",
	} {
		f(inside, false)
	}
	_, err = door.dial(t.Context(), "tcp", "localhost:1")
	require.ErrorContains(t, err, "err-receiver-address")
}
