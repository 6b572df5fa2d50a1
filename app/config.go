package app

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/common/model"

	"github.com/hearth-metrics/hearth/alertmanager"
	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/compactor"
	"github.com/hearth-metrics/hearth/distributor"
	"github.com/hearth-metrics/hearth/ingester"
	"github.com/hearth-metrics/hearth/querier"
	"github.com/hearth-metrics/hearth/ring"
	"github.com/hearth-metrics/hearth/ruler"
	"github.com/hearth-metrics/hearth/storegateway"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/transport"
)

// Config is everything that can be set, one section for each package.
type Config struct {
	Target       string                `yaml:"target"`   // parts to run, separated by commas: distributor, ingester, querier, storegateway, compactor, ruler, alertmanager; write: the first two; read: the querier; backend: the last four; all: everything in one process
	DataDir      string                `yaml:"data_dir"` // folder for everything that is kept on local disk
	Log          LogConfig             `yaml:"log"`
	Server       ServerConfig          `yaml:"server"`
	Instance     ring.Instance         `yaml:"instance"`
	Memberlist   ring.MemberlistConfig `yaml:"memberlist"`
	Ring         ring.Config           `yaml:"ring"`
	Cluster      transport.Config      `yaml:"cluster"`
	Bucket       bucket.Config         `yaml:"bucket"`
	Distributor  distributor.Config    `yaml:"distributor"`
	Ingester     ingester.Config       `yaml:"ingester"`
	StoreGateway storegateway.Config   `yaml:"storegateway"`
	Querier      querier.Config        `yaml:"querier"`
	Compactor    compactor.Config      `yaml:"compactor"`
	Ruler        ruler.Config          `yaml:"ruler"`
	Alertmanager alertmanager.Config   `yaml:"alertmanager"`
	Auth         tenant.AuthConfig     `yaml:"auth"`
	Tenants      tenant.Config         `yaml:"tenants"`
	Limits       tenant.LimitsConfig   `yaml:"limits"`
}

// LogConfig is how Hearth logs to standard error.
type LogConfig struct {
	Level string `yaml:"level"` // least severe level that is written: debug, info, warn or error
}

// ServerConfig is where Hearth listens.
type ServerConfig struct {
	HTTPListenAddress string            `yaml:"http_listen_address"` // host:port of the HTTP API; port 0 picks a free one
	HTTPTLS           transport.HTTPTLS `yaml:"http_tls"`
	GRPCListenAddress string            `yaml:"grpc_listen_address"` // host:port that other Hearth processes call; port 0 picks a free one
	ShutdownTimeout   model.Duration    `yaml:"shutdown_timeout"`    // how long running requests may go on after a stop was asked for
}

// The parts that can be targets, and the groups of them.
const (
	targetDistributor  = "distributor"
	targetIngester     = "ingester"
	targetQuerier      = "querier"
	targetStoreGateway = "storegateway"
	targetCompactor    = "compactor"
	targetRuler        = "ruler" // with a distributor and a querier of its own
	targetAlertmanager = "alertmanager"
	targetAll          = "all"
)

var targetGroups = map[string][]string{
	targetAll: {targetDistributor, targetIngester, targetQuerier, targetStoreGateway, targetCompactor, targetRuler, targetAlertmanager},
	"write":   {targetDistributor, targetIngester},
	"read":    {targetQuerier},
	"backend": {targetStoreGateway, targetCompactor, targetRuler, targetAlertmanager},
}

// runs says whether a part is among the targets.
func (c *Config) runs(part string) bool {
	for t := range strings.SplitSeq(c.Target, ",") {
		t = strings.TrimSpace(t)
		if t == part || slices.Contains(targetGroups[t], part) {
			return true
		}
	}
	return false
}

// members is who this process is among others.
func (c *Config) members() ring.Members {
	return ring.Members{Ring: c.Ring, Instance: c.Instance, Memberlist: c.Memberlist}
}

// DefaultConfig runs everything in one process, on this machine only.
func DefaultConfig() Config {
	return Config{
		Target:  targetAll,
		DataDir: "./data",
		Log:     LogConfig{Level: "info"},
		Server: ServerConfig{
			HTTPListenAddress: "127.0.0.1:9009",
			GRPCListenAddress: "127.0.0.1:9095",
			ShutdownTimeout:   model.Duration(30 * time.Second),
		},
		Memberlist:   ring.DefaultMembers().Memberlist,
		Cluster:      transport.DefaultConfig(),
		Bucket:       bucket.DefaultConfig(),
		Distributor:  distributor.DefaultConfig(),
		Ingester:     ingester.DefaultConfig(),
		StoreGateway: storegateway.DefaultConfig(),
		Querier:      querier.DefaultConfig(),
		Compactor:    compactor.DefaultConfig(),
		Ruler:        ruler.DefaultConfig(),
		Alertmanager: alertmanager.DefaultConfig(),
		Auth:         tenant.DefaultAuthConfig(),
		Tenants:      tenant.DefaultConfig(),
		Limits:       tenant.LimitsConfig{Defaults: tenant.DefaultLimits()},
	}
}

// Validate reports everything that cannot work, each with its key.
func (c *Config) Validate() error {
	return errors.Join(
		c.validateTarget(),
		c.validateMembers(),
		c.validateOwn(),
		section("server.http_tls", c.Server.HTTPTLS.Validate()),
		section("cluster", c.Cluster.Validate()),
		section("bucket", c.Bucket.Validate()),
		section("distributor", c.Distributor.Validate()),
		section("ingester", c.Ingester.Validate()),
		section("storegateway", c.StoreGateway.Validate()),
		section("querier", c.Querier.Validate()),
		section("compactor", c.Compactor.Validate()),
		section("ruler", c.Ruler.Validate()),
		section("alertmanager", c.Alertmanager.Validate()),
		section("auth", c.Auth.Validate()),
		section("tenants", c.Tenants.Validate()),
		validateLimits(&c.Limits),
	)
}

// section puts a part's name before the key that its error begins with, unless
// the part has done so.
func section(name string, err error) error {
	if err == nil || strings.HasPrefix(err.Error(), name+".") {
		return err
	}
	return fmt.Errorf("%s.%w", name, err)
}

func (c *Config) validateTarget() error {
	for t := range strings.SplitSeq(c.Target, ",") {
		switch t = strings.TrimSpace(t); {
		case targetGroups[t] == nil && !slices.Contains(targetGroups[targetAll], t):
			return fmt.Errorf("target: %q is unknown, valid are %s, write, read, backend and %s", t, strings.Join(targetGroups[targetAll], ", "), targetAll)
		}
	}
	m := c.members()
	switch _, port, _ := net.SplitHostPort(c.Server.GRPCListenAddress); {
	case m.Alone() && (!c.runs(targetDistributor) || !c.runs(targetIngester) || !c.runs(targetQuerier)):
		return fmt.Errorf("target: %s needs other processes; set memberlist.join so that they find each other", c.Target)
	case !m.Alone() && port == "0" && !strings.Contains(c.Instance.AdvertiseAddress, ":"):
		return errors.New("server.grpc_listen_address: a member of a cluster needs a port that others know, or instance.advertise_address with a port")
	}
	return nil
}

func (c *Config) validateMembers() error {
	m := c.members()
	return m.Validate()
}

func (c *Config) validateOwn() error {
	var errs []error
	if c.DataDir == "" {
		errs = append(errs, errors.New("data_dir: must not be empty"))
	}
	if _, ok := logLevels[c.Log.Level]; !ok {
		errs = append(errs, fmt.Errorf("log.level: want debug, info, warn or error, got %q", c.Log.Level))
	}
	for key, addr := range map[string]string{
		"server.http_listen_address": c.Server.HTTPListenAddress,
		"server.grpc_listen_address": c.Server.GRPCListenAddress,
	} {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			errs = append(errs, fmt.Errorf("%s: want host:port or :port, got %q", key, addr))
		}
	}
	if c.Server.ShutdownTimeout <= 0 {
		errs = append(errs, errors.New("server.shutdown_timeout: must be more than 0"))
	}
	return errors.Join(errs...)
}

var logLevels = map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}

// SlogLevel is the level as slog knows it. Valid after Validate.
func (c LogConfig) SlogLevel() slog.Level { return logLevels[c.Level] }

// validateLimits refuses negative limits: none of them has a meaning.
func validateLimits(c *tenant.LimitsConfig) error {
	errs := []error{c.CheckPlans(), notNegative("limits.defaults", c.Defaults)}
	for name, l := range c.Plans {
		errs = append(errs, notNegative(join("limits.plans", name), l))
	}
	for id, l := range c.Tenants {
		errs = append(errs, notNegative(join("limits.tenants", string(id)), l))
	}
	return errors.Join(errs...)
}

func notNegative(path string, l tenant.Limits) error {
	v := reflect.ValueOf(l)
	for name, f := range fieldsOf(v.Type()) {
		fv := v.FieldByIndex(f.Index)
		if (fv.CanInt() && fv.Int() < 0) || (fv.CanFloat() && fv.Float() < 0) {
			return fmt.Errorf("%s.%s: must not be negative, 0 means no limit", path, name)
		}
	}
	return section(path, l.Validate())
}
