package budget_test

import (
	htmltemplate "html/template"
	"io"
	"strings"
	"testing"
	"text/template"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/hearth-metrics/hearth/budget"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run executes a bounded template as text and as HTML.
func run(t *testing.T, text string, data any) (string, error) {
	t.Helper()
	b := budget.New()
	tt, err := template.New("t").Funcs(b.Functions()).Parse(text)
	require.NoError(t, err)
	for _, each := range tt.Templates() {
		budget.Bound(each.Tree)
	}
	var out strings.Builder
	err = tt.Execute(&out, data)

	th, errHTML := htmltemplate.New("t").Funcs(budget.New().Functions()).Parse(text)
	require.NoError(t, errHTML)
	for _, each := range th.Templates() {
		budget.Bound(each.Tree)
	}
	if errHTML = th.Execute(io.Discard, data); err == nil {
		require.NoError(t, errHTML, text)
	} else {
		require.Error(t, errHTML, text)
	}
	return out.String(), err
}

func TestTemplatesThatEndAreAsTheyWere(t *testing.T) {
	for text, want := range map[string]string{
		`{{ range $i, $x := .List }}{{ $i }}{{ $x }} {{ end }}{{ len .List }}`: "0a 1b 2",
		`{{ with .Name }}{{ . | html }}{{ printf "%3d|%q" 7 . }}{{ end }}`:     `a&lt;b  7|"a<b"`,
		`{{ define "x" }}({{ . }}){{ end }}{{ template "x" (print .Name 1) }}`: "(a<b1)",
		`{{ join "," .List }} {{ reReplaceAll "[ab]" "<$0>" .Name }}`:          "a,b <a><<b>",
		`{{ if and (eq .Name "a<b") (match "^a" .Name) }}yes{{ end }}`:         "yes",
		`{{ .None }}{{ index .List 1 }}{{ toJson .List }}{{ urlquery "a b" }}`: `<no value>b["a","b"]a+b`,
	} {
		got, err := run(t, text, map[string]any{"List": []string{"a", "b"}, "Name": "a<b"})
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
}

func TestTemplatesThatDoNotEndAreStopped(t *testing.T) {
	large := strings.Repeat("x", 1<<19)
	for _, text := range []string{
		`{{ range 1000000000 }}{{ end }}`,
		`{{ define "x" }}{{ template "x" . }}{{ end }}{{ template "x" . }}`,
		`{{ range 1000000 }}{{ if eq $ $ }}{{ end }}{{ if match "x" $ }}{{ end }}{{ end }}`,
		`{{ range 1000000 }}{{ $ | html }}{{ end }}`,
		`{{ range 1000000 }}{{ if (len (print $ "")) }}{{ end }}{{ end }}`,
		`{{ print . . . }}`,
		`{{ printf "%9999d" 1 }}`,
		`{{ match "((xx){100}){100}y" . }}`,
		`{{ reReplaceAll "" . . }}`,
	} {
		_, err := run(t, text, large)
		require.ErrorIs(t, err, budget.ErrTooMuch, text)
	}
}
