package alertmanager

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"path"
	"reflect"
	"strings"

	"github.com/prometheus/alertmanager/config"
	"github.com/prometheus/alertmanager/template"
	"github.com/prometheus/alertmanager/timeinterval"
	yaml "go.yaml.in/yaml/v3"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// loaded is a configuration that can run.
type loaded struct {
	conf      *config.Config
	templates *template.Template
}

// readConfig reads a configuration as clients send it.
func readConfig(body []byte) (c UserConfig, err error) {
	d := yaml.NewDecoder(bytes.NewReader(body))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil && !errors.Is(err, io.EOF) {
		return c, invalid("the request is not YAML with template_files and alertmanager_config: %s", err)
	}
	if strings.TrimSpace(c.Config) == "" {
		return c, invalid("alertmanager_config is empty: to have none, send DELETE")
	}
	return c, nil
}

func invalid(format string, args ...any) *wire.UserError {
	return wire.Errorf(wire.Invalid, "err-alertmanager-config", format, args...)
}

// load checks a configuration, and makes what runs of it. Lines in its errors
// are those of alertmanager_config, or of the template.
func (a *Alertmanager) load(id tenant.ID, c UserConfig) (*loaded, error) {
	if err := checkSizes(c, a.limits(id)); err != nil {
		return nil, err
	}
	if err := checkExpanded(c.Config); err != nil {
		return nil, err
	}
	conf, err := config.Load(c.Config)
	if err != nil {
		return nil, invalid("alertmanager_config: %s", err)
	}
	if err := checkAccess(c.Config, conf); err != nil {
		return nil, err
	}
	if err := checkTemplateNames(c, conf); err != nil {
		return nil, err
	}
	templates, err := newTemplates(c.TemplateFiles, conf)
	if err != nil {
		return nil, invalid("%s", err)
	}
	templates.ExternalURL = a.url
	l := &loaded{conf: conf, templates: templates}
	if _, err := l.receivers(a.door, newRate(0), slog.New(slog.DiscardHandler)); err != nil {
		return nil, invalid("alertmanager_config: %s", err)
	}
	return l, nil
}

func checkSizes(c UserConfig, l *tenant.Limits) error {
	if n := len(c.Config); l.MaxAlertConfigSize > 0 && n > l.MaxAlertConfigSize {
		return wire.Errorf(wire.Invalid, "err-alertmanager-config-too-large", "alertmanager_config has %d bytes, the limit is %d (limit max_alertmanager_config_size)", n, l.MaxAlertConfigSize)
	}
	if n := len(c.TemplateFiles); l.MaxAlertTemplates > 0 && n > l.MaxAlertTemplates {
		return wire.Errorf(wire.Invalid, "err-alertmanager-config-too-large", "there are %d template files, the limit is %d (limit max_alertmanager_templates)", n, l.MaxAlertTemplates)
	}
	for name, text := range c.TemplateFiles {
		if n := len(text); l.MaxAlertTemplateSize > 0 && n > l.MaxAlertTemplateSize {
			return wire.Errorf(wire.Invalid, "err-alertmanager-config-too-large", "template file %.100q has %d bytes, the limit is %d (limit max_alertmanager_template_size)", name, n, l.MaxAlertTemplateSize)
		}
	}
	return nil
}

// checkTemplateNames holds the names to what a file in one folder can have, as
// that is how clients store them, and the patterns below templates to them.
func checkTemplateNames(c UserConfig, conf *config.Config) error {
	for name := range c.TemplateFiles {
		if name == "" || name == "." || name == ".." || strings.ContainsAny(name, `/\`) {
			return invalid("template file %.100q: the name must not have a path", name)
		}
	}
	for _, pattern := range conf.Templates {
		found := false
		for name := range c.TemplateFiles {
			ok, err := path.Match(pattern, name)
			found = found || (ok && err == nil)
		}
		if !found {
			return invalid("alertmanager_config: line %d: templates: %.100q is not among template_files", lineOf(c.Config, pattern), pattern)
		}
	}
	return nil
}

// checkAccess refuses what would reach into the process's machine: files, its
// cloud identity, its own tracing.
func checkAccess(text string, conf *config.Config) error {
	if key := fileKey(reflect.ValueOf(conf)); key != "" {
		return invalid("alertmanager_config: line %d: %s: files cannot be read, put the value itself here", lineOf(text, key+":"), key)
	}
	if !reflect.ValueOf(conf.TracingConfig).IsZero() || !reflect.ValueOf(conf.EventRecorder).IsZero() {
		return invalid("alertmanager_config: tracing and event_recorder belong to the server, not to a tenant")
	}
	for _, r := range conf.Receivers {
		for _, c := range r.SNSConfigs {
			switch s := c.Sigv4; {
			case s.AccessKey == "" || s.SecretKey == "":
				return invalid("alertmanager_config: line %d: sns_configs: sigv4.access_key and sigv4.secret_key must be set, the server's own identity is not lent", lineOf(text, "sns_configs:"))
			case s.Profile != "" || c.UseAWSHTTPClient:
				return invalid("alertmanager_config: line %d: sns_configs: profile and use_aws_http_client cannot be used", lineOf(text, "sns_configs:"))
			}
		}
	}
	return nil
}

// lineOf is the line that a text is on, or the first.
func lineOf(text, what string) int {
	return 1 + strings.Count(text[:max(0, strings.Index(text, what))], "\n")
}

// fileKey finds a setting that names a file, by the names that settings have.
func fileKey(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			return fileKey(v.Elem())
		}
	case reflect.Slice, reflect.Array:
		for i := range v.Len() {
			if key := fileKey(v.Index(i)); key != "" {
				return key
			}
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			if key := fileKey(v.MapIndex(k)); key != "" {
				return key
			}
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			if f.IsExported() && (strings.HasSuffix(name, "_file") || name == "files") && !v.Field(i).IsZero() {
				return name
			}
			if !f.IsExported() {
				continue
			}
			if key := fileKey(v.Field(i)); key != "" {
				return key
			}
		}
	}
	return ""
}

// intervals are the times that routes name.
func (l *loaded) intervals() map[string][]timeinterval.TimeInterval {
	all := map[string][]timeinterval.TimeInterval{}
	for _, ti := range l.conf.MuteTimeIntervals {
		all[ti.Name] = ti.TimeIntervals
	}
	for _, ti := range l.conf.TimeIntervals {
		all[ti.Name] = ti.TimeIntervals
	}
	return all
}

func unknownReceiver(name string) error {
	return wire.Errorf(wire.NotFound, "err-alertmanager-receiver", "receiver %.100q is not in the configuration", name)
}
