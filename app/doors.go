package app

import (
	"fmt"
	"net"

	"github.com/gorilla/mux"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
)

// openDoor is the rule of routes that anybody may ask.
const openDoor = "open"

// doors are the routers that routes are registered at: one for each scope, so
// that there is no way to register a route without a rule.
type doors struct {
	byName map[string]*mux.Router
	names  map[*mux.Route]string // of the route that holds a router
}

func (a *App) newDoors(r *mux.Router) doors {
	d := doors{byName: map[string]*mux.Router{}, names: map[*mux.Route]string{}}
	add := func(name string, use ...mux.MiddlewareFunc) {
		route := r.NewRoute()
		d.names[route] = name
		d.byName[name] = route.Subrouter()
		d.byName[name].Use(use...)
	}
	add(openDoor)
	for _, s := range tenant.AllScopes() {
		if s == tenant.Operator { // an operator looks in while the parts start
			add(s.String(), a.auth.Require(s))
			continue
		}
		add(s.String(), a.gate, a.auth.Require(s))
	}
	return d
}

// of is where routes go that need a scope. Those of a tenant are answered while
// all parts run, with the tenant in the context.
func (d doors) of(s tenant.Scope) *mux.Router { return d.byName[s.String()] }

// open is where routes go that anybody may ask.
func (d doors) open() *mux.Router { return d.byName[openDoor] }

// scopeOf is the rule of a route, by the routes above it; "" if there is none.
func (d doors) scopeOf(above []*mux.Route) string {
	for _, r := range above {
		if name, ok := d.names[r]; ok {
			return name
		}
	}
	return ""
}

// knowTenants makes the registry and the door that asks it.
func (a *App) knowTenants(b bucket.Bucket) (err error) {
	a.registry, err = tenant.New(a.cfg.Tenants, tenant.Options{
		Limits: a.cfg.Limits, Bucket: b, DataDir: a.cfg.DataDir, FirstToken: a.cfg.Auth.Mode == tenant.ModeToken,
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
