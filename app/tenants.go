package app

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/hearth-metrics/hearth/alertmanager"
	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/ingester"
	"github.com/hearth-metrics/hearth/ruler"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/tenant/admin"
	"github.com/hearth-metrics/hearth/tenant/meter"
)

// forgetful is a registry that forgets of a tenant what is beside its samples,
// too: its rules and its Alertmanager. They would be there again if somebody
// made a tenant of that name.
type forgetful struct {
	*tenant.Registry
	bucket bucket.Bucket
}

// Removed implements compactor.Registry.
func (f forgetful) Removed(ctx context.Context, id tenant.ID) error {
	err := errors.Join(ruler.Forget(ctx, f.bucket, id), alertmanager.Forget(ctx, f.bucket, id))
	if err != nil {
		return err
	}
	return f.Registry.Removed(ctx, id)
}

// knowTenants makes the registry and the door that asks it.
func (a *App) knowTenants(b bucket.Bucket) (err error) {
	a.registry, err = tenant.New(a.cfg.Tenants, tenant.Options{
		Limits: a.cfg.Limits, Bucket: bucket.For(b, "tenants"), DataDir: a.cfg.DataDir, FirstToken: a.cfg.Auth.Mode == tenant.ModeToken,
	}, a.logger, a.reg)
	if err != nil {
		return fmt.Errorf("build the registry of tenants: %w", err)
	}
	a.auth, err = tenant.NewAuth(a.cfg.Auth, a.registry)
	return err
}

// warnIfTrusting tells an operator who listens to the world that whoever
// reaches the port can be any tenant.
func (a *App) warnIfTrusting() {
	if a.cfg.Auth.Mode != tenant.ModeHeader {
		return
	}
	host, _, err := net.SplitHostPort(a.cfg.Server.HTTPListenAddress)
	if err != nil {
		return
	}
	if ip := net.ParseIP(host); host == "localhost" || (ip != nil && ip.IsLoopback()) {
		return
	}
	a.logger.Warn("WHOEVER REACHES THIS PORT IS ANY TENANT AND OPERATOR that he says he is: let nobody but a trusted proxy reach it, or set auth.mode to token",
		"address", a.cfg.Server.HTTPListenAddress, "header", tenant.Header)
}

// howToSay is how a client says who it is.
func (a *App) howToSay() string {
	if a.cfg.Auth.Mode == tenant.ModeToken {
		return "Requests need a token; with an operator's token POST /admin/v1/tenants makes a tenant and its first token."
	}
	return `Send the tenant in the header ` + tenant.Header + `, for example "demo".`
}

// meterTenants counts what tenants use, and serves the API. ing is nil where
// there is no ingester.
func (a *App) meterTenants(b bucket.Bucket, ing *ingester.Ingester) error {
	o := meter.Options{Bucket: bucket.For(b, "meter"), Instance: a.cfg.Instance.ID, Replicas: 1}
	if o.Instance == "" {
		var err error
		if o.Instance, err = os.Hostname(); err != nil {
			return fmt.Errorf("instance.id: %w", err)
		}
	}
	if m := a.cfg.members(); !m.Alone() {
		o.Replicas = m.ReplicationFactor()
	}
	if ing != nil {
		o.Series, o.LabelSets = ing.EachTenant, ing.EachLabelSet
	}
	a.meter = meter.New(o, a.logger, a.reg)
	a.parts = append(a.parts, part{"meter", a.meter})
	admin.New(a.registry, a.meter, a.logger).RegisterRoutes(a.doors.of, a.doors.open())
	return nil
}
