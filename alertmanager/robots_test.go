package alertmanager

import (
	"encoding/json"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What docs/alerts.md says of DingTalk and Feishu makes the messages that their
// robots take, whatever is in the labels.
func TestChatRobots(t *testing.T) {
	t.Parallel()
	docs, err := os.ReadFile("../docs/alerts.md")
	require.NoError(t, err)
	_, section, ok := strings.Cut(string(docs), "## DingTalk and Feishu")
	require.True(t, ok)
	_, section, _ = strings.Cut(section, "```yaml\n")
	receivers, _, ok := strings.Cut(section, "```")
	require.True(t, ok)
	url, got := newHook(t)
	receivers = regexp.MustCompile(`https://\S+`).ReplaceAllString(receivers, url)
	m := newWorld(t, 1).members[0]
	m.configure("route: {receiver: dingtalk}\n" + receivers)

	const sample = `{"labels": {"alertname": "磁盘 \"满\" \\", "host": "a\nb"}, "annotations": {"summary": "<90%> & {{ x }}", "description": "看这里"}}`
	const text = "[firing] 磁盘 \"满\" \\: <90%> & {{ x }}\n- host: a\nb\n看这里\n"
	send := func(receiver string, into any) {
		t.Helper()
		_, body := m.do(http.MethodPost, "/api/v1/alerts/test?receiver="+receiver, sample)
		require.NotContains(t, body, "error")
		d := json.NewDecoder(strings.NewReader(<-got))
		d.DisallowUnknownFields()
		require.NoError(t, d.Decode(into))
	}
	var ding struct {
		MsgType  string `json:"msgtype"`
		Markdown struct {
			Title string `json:"title"`
			Text  string `json:"text"`
		} `json:"markdown"`
	}
	send("dingtalk", &ding)
	require.Equal(t, "markdown", ding.MsgType)
	require.Equal(t, `[FIRING:1] 磁盘 "满" \`, ding.Markdown.Title)
	require.Equal(t, text, ding.Markdown.Text)
	var feishu struct {
		MsgType string `json:"msg_type"`
		Content struct {
			Text string `json:"text"`
		} `json:"content"`
	}
	send("feishu", &feishu)
	require.Equal(t, "text", feishu.MsgType)
	require.Equal(t, text, feishu.Content.Text)
}
