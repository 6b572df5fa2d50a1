// Package deploy is OUTSIDE: what is around hearth when others run it. It has
// no code; its tests hold compose.yaml, the Dockerfile and Grafana's
// provisioning against the real program, so that a key that is renamed breaks
// them here. The Helm chart has tests of its own, in tools/helm.
package deploy

import (
	"bytes"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/promslog"
	"github.com/prometheus/prometheus/config"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// compose is as much of a Compose file as ours uses; other keys are errors.
type compose struct {
	Hearth   any                       `yaml:"x-hearth"` // merged into services
	Services map[string]*service       `yaml:"services"`
	Volumes  map[string]any            `yaml:"volumes"`
	Configs  map[string]composeContent `yaml:"configs"`
}

type composeContent struct {
	Content string `yaml:"content"`
}

type service struct {
	Image string `yaml:"image"`
	Build struct {
		Context    string `yaml:"context"`
		Dockerfile string `yaml:"dockerfile"`
	} `yaml:"build"`
	Entrypoint  []string          `yaml:"entrypoint"`
	Command     []string          `yaml:"command"`
	Environment map[string]string `yaml:"environment"`
	Ports       []string          `yaml:"ports"`
	Volumes     []string          `yaml:"volumes"`
	Restart     string            `yaml:"restart"`
	Grace       string            `yaml:"stop_grace_period"`
	DependsOn   []string          `yaml:"depends_on"`
	Configs     []struct {
		Source string `yaml:"source"`
		Target string `yaml:"target"`
	} `yaml:"configs"`
	Networks map[string]struct {
		Aliases []string `yaml:"aliases"`
	} `yaml:"networks"`
}

// hearthConfig is what of hearth's own configuration the rest has to agree with.
type hearthConfig struct {
	DataDir string `yaml:"data_dir"`
	Server  struct {
		HTTP string `yaml:"http_listen_address"`
	} `yaml:"server"`
	Instance struct{ ID, Zone string } `yaml:"instance"`
	Gossip   struct {
		Port int    `yaml:"bind_port"`
		Join string `yaml:"join"`
	} `yaml:"memberlist"`
	Bucket struct {
		S3 struct{ Endpoint, Bucket string } `yaml:"s3"`
	} `yaml:"bucket"`
}

// The three members, in the order of their published ports.
var members = []string{"hearth-a", "hearth-b", "hearth-c"}

func readCompose(t *testing.T) *compose {
	t.Helper()
	text, err := os.ReadFile("compose.yaml")
	require.NoError(t, err)
	c := &compose{}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	require.NoError(t, dec.Decode(c))
	return c
}

// content is a file as the container sees it.
func (c *compose) content(t *testing.T, name string) string {
	t.Helper()
	text := c.Configs[name].Content
	require.NotEmpty(t, text, "configs.%s", name)
	require.NotRegexp(t, `(^|[^$])(\$\$)*\$[^$]`, text, "Compose would expand a single dollar in configs.%s", name)
	return strings.ReplaceAll(text, "$$", "$")
}

func TestComposeStartsAClusterOfThreeZones(t *testing.T) {
	t.Parallel()
	c := readCompose(t)
	zones := map[string]bool{}
	for i, name := range members {
		s := c.Services[name]
		require.NotNil(t, s, name)
		cfg := printConfig(t, c, s)
		zones[cfg.Instance.Zone] = true
		require.Equal(t, name, cfg.Instance.ID)
		require.Equal(t, []string{"hearth"}, s.Networks["default"].Aliases)

		_, port, err := net.SplitHostPort(cfg.Server.HTTP)
		require.NoError(t, err)
		require.Equal(t, []string{fmt.Sprintf("127.0.0.1:%d:%s", 9009+i, port)}, s.Ports)
		require.Equal(t, []string{name + ":" + cfg.DataDir}, s.Volumes)

		var join []string
		for _, m := range members {
			join = append(join, fmt.Sprintf("%s:%d", m, cfg.Gossip.Port))
		}
		require.Equal(t, strings.Join(join, ","), cfg.Gossip.Join)
		checkS3(t, c, cfg)
	}
	require.Len(t, zones, 3)
}

// checkS3 wants the server, the bucket and the keys to be those that hearth has.
func checkS3(t *testing.T, c *compose, cfg hearthConfig) {
	t.Helper()
	host, port, err := net.SplitHostPort(cfg.Bucket.S3.Endpoint)
	require.NoError(t, err)
	s := c.Services[host]
	require.NotNil(t, s, "no service %s", host)
	require.Equal(t, "mkdir -p /data/"+cfg.Bucket.S3.Bucket+" && exec versitygw --port :"+port+" posix /data", s.Command[0])
	text := c.content(t, "hearth")
	require.Contains(t, text, "access_key_id: "+s.Environment["ROOT_ACCESS_KEY"]+"\n")
	require.Contains(t, text, "secret_access_key: "+s.Environment["ROOT_SECRET_KEY"]+"\n")
}

// printConfig asks the real hearth what it makes of a service's command.
func printConfig(t *testing.T, c *compose, s *service) (cfg hearthConfig) {
	t.Helper()
	require.Len(t, s.Configs, 1)
	file := filepath.Join(t.TempDir(), "hearth.yaml")
	require.NoError(t, os.WriteFile(file, []byte(c.content(t, s.Configs[0].Source)), 0o600))
	args := slices.Clone(s.Command)
	i := slices.Index(args, s.Configs[0].Target)
	require.GreaterOrEqual(t, i, 0, "%s is not among %v", s.Configs[0].Target, args)
	args[i] = file
	env := []string{}
	for k, v := range s.Environment {
		env = append(env, k+"="+v)
	}
	require.NoError(t, yaml.Unmarshal(hearth(t, env, append(args, "-print-config")...), &cfg))
	return cfg
}

// hearth runs the program and returns what it prints.
func hearth(t *testing.T, env []string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(program(t), args...)
	cmd.Env = env
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "hearth %v: %s", args, &stderr)
	return out
}

// What is mounted, built and depended on is there.
func TestComposeNamesWhatExists(t *testing.T) {
	t.Parallel()
	c := readCompose(t)
	for name, s := range c.Services {
		require.Regexp(t, `^[a-z./-]+:[a-z0-9.]+$`, s.Image, name)
		for _, v := range s.Volumes {
			source, _, _ := strings.Cut(v, ":")
			if strings.HasPrefix(source, ".") {
				require.DirExists(t, source, name)
				continue
			}
			require.Contains(t, c.Volumes, source, name)
		}
		for _, f := range s.Configs {
			require.Contains(t, c.Configs, f.Source, name)
		}
		for _, d := range s.DependsOn {
			require.Contains(t, c.Services, d, name)
		}
		if s.Build.Context != "" {
			require.FileExists(t, filepath.Join(s.Build.Context, s.Build.Dockerfile), name)
			require.FileExists(t, filepath.Join(s.Build.Context, "go.mod"), name)
		}
	}
}

// Prometheus itself reads its configuration.
func TestComposePrometheusScrapesAndWrites(t *testing.T) {
	t.Parallel()
	c := readCompose(t)
	cfg, err := config.Load(c.content(t, "prometheus"), promslog.NewNopLogger())
	require.NoError(t, err)
	var targets []string
	for _, g := range printTargets(t, c) {
		targets = append(targets, g...)
	}
	for i, name := range members {
		require.Equal(t, name+":9009", targets[i])
	}
	require.Len(t, cfg.RemoteWriteConfigs, 1)
	checkDoor(t, c, cfg.RemoteWriteConfigs[0].URL.String(), "/api/v1/push")
}

// printTargets lists the targets of each scrape job: Prometheus keeps them in
// types of its service discovery.
func printTargets(t *testing.T, c *compose) (out [][]string) {
	t.Helper()
	var cfg struct {
		Jobs []struct {
			Static []struct {
				Targets []string `yaml:"targets"`
			} `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	require.NoError(t, yaml.Unmarshal([]byte(c.content(t, "prometheus")), &cfg))
	for _, j := range cfg.Jobs {
		out = append(out, j.Static[0].Targets)
	}
	return out
}

// checkDoor wants an address to be one that all members have.
func checkDoor(t *testing.T, c *compose, addr, path string) {
	t.Helper()
	u, err := url.Parse(addr)
	require.NoError(t, err)
	require.Equal(t, path, u.Path)
	for _, name := range members {
		s := c.Services[name]
		require.Contains(t, s.Networks["default"].Aliases, u.Hostname())
		_, port, err := net.SplitHostPort(printConfig(t, c, s).Server.HTTP)
		require.NoError(t, err)
		require.Equal(t, port, u.Port())
	}
}

func TestGrafanaAsksHearth(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("grafana/provisioning/datasources/hearth.yaml")
	require.NoError(t, err)
	var cfg struct {
		Datasources []struct {
			Type, URL  string
			JSONData   map[string]string `yaml:"jsonData"`
			SecureData map[string]string `yaml:"secureJsonData"`
		}
	}
	require.NoError(t, yaml.Unmarshal(text, &cfg))
	require.Len(t, cfg.Datasources, 1)
	d := cfg.Datasources[0]
	require.Equal(t, "prometheus", d.Type)
	c := readCompose(t)
	checkDoor(t, c, d.URL, "/prometheus")
	// It shows the tenant that Prometheus writes as.
	require.Contains(t, c.content(t, "prometheus"), d.JSONData["httpHeaderName1"]+": "+d.SecureData["httpHeaderValue1"]+"\n")
}

func TestDockerfileBuildsThisProgram(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("Dockerfile")
	require.NoError(t, err)
	mod, err := os.ReadFile("../go.mod")
	require.NoError(t, err)
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(mod)
	require.NotNil(t, version)
	require.Contains(t, string(text), "FROM golang:"+string(version[1])+" AS build")
	require.Contains(t, string(text), "CGO_ENABLED=0")
	require.DirExists(t, "../cmd/hearth")

	cmd := regexp.MustCompile(`(?m)^CMD (\[.*\])$`).FindSubmatch(text)
	require.NotNil(t, cmd)
	var args []string
	require.NoError(t, yaml.Unmarshal(cmd[1], &args)) // JSON is YAML
	var cfg hearthConfig
	require.NoError(t, yaml.Unmarshal(hearth(t, nil, append(args, "-print-config")...), &cfg))
	require.Equal(t, "0.0.0.0:9009", cfg.Server.HTTP)

	expose := regexp.MustCompile(`(?m)^EXPOSE (.*)$`).FindSubmatch(text)
	require.NotNil(t, expose)
	require.Equal(t, fmt.Sprintf("9009 9095 %d", cfg.Gossip.Port), string(expose[1]))
}
