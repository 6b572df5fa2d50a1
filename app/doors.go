package app

import (
	"github.com/gorilla/mux"

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
	pace := &tenant.Pace{}
	for _, s := range tenant.AllScopes() {
		if s == tenant.Operator { // an operator looks in while the parts start
			add(s.String(), a.auth.Require(s))
			continue
		}
		add(s.String(), a.gate, a.auth.Require(s), pace.Middleware)
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
