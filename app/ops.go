package app

import (
	"fmt"
	"html/template"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"

	"github.com/gorilla/mux"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/hearth-metrics/hearth/tenant"
)

// registerOps adds what an operator looks at, and what is open to all: a probe
// has no token, and neither has what scrapes /metrics, which names no tenant
// and no secret.
func (a *App) registerOps(open, r *mux.Router) {
	for path, h := range map[string]http.HandlerFunc{"/ready": a.serveReady, "/-/ready": a.serveReady, "/-/healthy": a.serveHealthy} {
		open.HandleFunc(path, h).Methods(http.MethodGet, http.MethodHead)
	}
	open.Handle("/metrics", promhttp.HandlerFor(a.reg, promhttp.HandlerOpts{Registry: a.reg, EnableOpenMetrics: true})).Methods(http.MethodGet)

	get := func(path string, h http.HandlerFunc) { r.HandleFunc(path, h).Methods(http.MethodGet, http.MethodHead) }
	get("/", a.serveIndex)
	get("/services", a.serveServices)
	get("/config", a.serveConfig)
	// Not cmdline: -set may have put a secret on it.
	get("/debug/pprof/profile", pprof.Profile)
	get("/debug/pprof/trace", pprof.Trace)
	r.HandleFunc("/debug/pprof/symbol", pprof.Symbol).Methods(http.MethodGet, http.MethodPost)
	r.PathPrefix("/debug/pprof/").HandlerFunc(pprof.Index).Methods(http.MethodGet)
}

func (a *App) serveReady(w http.ResponseWriter, _ *http.Request) {
	if why := a.unready(); why != "" {
		http.Error(w, why, http.StatusServiceUnavailable)
		return
	}
	writeText(w, "ready\n")
}

func (a *App) serveHealthy(w http.ResponseWriter, _ *http.Request) {
	writeText(w, "healthy\n")
}

func (a *App) serveServices(w http.ResponseWriter, _ *http.Request) {
	var out strings.Builder
	for _, p := range a.parts {
		fmt.Fprintf(&out, "%-14s %s\n", p.name, p.State())
	}
	writeText(w, out.String())
}

func (a *App) serveConfig(w http.ResponseWriter, r *http.Request) {
	var out []byte
	var err error
	switch mode := r.URL.Query().Get("mode"); mode {
	case "":
		out, err = Print(a.cfg)
	case "diff":
		out, err = PrintDiff(a.cfg)
	case "defaults":
		out, err = Print(DefaultConfig())
	default:
		http.Error(w, fmt.Sprintf("mode %q is unknown, there are diff and defaults", mode), http.StatusBadRequest)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	writeText(w, string(out))
}

func writeText(w http.ResponseWriter, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write([]byte(text)) // the client has hung up: nobody to tell
}

// Route is a path that is served, with the methods it answers.
type Route struct {
	Path    string
	Methods []string // sorted; none means all
	Scope   string   // what a token needs for it; "open": no token
}

// Tenant says whether requests belong to a tenant.
func (r Route) Tenant() bool { return r.Scope != openDoor && r.Scope != tenant.Operator.String() }

// Link says whether a browser can open the route, and without changing anything.
func (r Route) Link() bool {
	return !r.Tenant() && !strings.Contains(r.Path, "{") && len(r.Methods) > 0 && !slices.ContainsFunc(r.Methods, func(m string) bool {
		return m != http.MethodGet && m != http.MethodHead
	})
}

// Routes lists all routes, sorted by path.
func (a *App) Routes() []Route {
	byPath := map[string]*Route{}
	// The function returns no error, so neither does Walk.
	_ = a.routes.Walk(func(r *mux.Route, _ *mux.Router, above []*mux.Route) error {
		path, err := r.GetPathTemplate()
		if err != nil || r.GetHandler() == nil {
			return nil // a subrouter
		}
		methods, _ := r.GetMethods() // an error means: all
		scope := a.doors.scopeOf(above)
		key := path + " " + scope
		if byPath[key] == nil {
			byPath[key] = &Route{Path: path, Scope: scope}
		}
		byPath[key].Methods = append(byPath[key].Methods, methods...)
		return nil
	})
	routes := make([]Route, 0, len(byPath))
	for _, r := range byPath {
		slices.Sort(r.Methods)
		r.Methods = slices.Compact(r.Methods)
		routes = append(routes, *r)
	}
	slices.SortFunc(routes, func(a, b Route) int { return strings.Compare(a.Path+" "+a.Scope, b.Path+" "+b.Scope) })
	return routes
}

func (a *App) serveIndex(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	page := struct {
		Unready, Header string
		Routes          []Route
	}{a.unready(), tenant.Header, a.Routes()}
	if err := indexPage.Execute(w, page); err != nil {
		a.logger.Debug("index page not written", "err", err)
	}
}

var indexPage = template.Must(template.New("index").Parse(`<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Hearth</title>
<style>body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:44rem;padding:0 1rem}td{padding:0 1rem 0 0;vertical-align:top}code{font-size:.95em}</style>
<h1>Hearth</h1>
<p>{{if .Unready}}Not ready: {{.Unready}}.{{else}}Ready.{{end}}
Write to <code>/api/v1/push</code>, query below <code>/prometheus</code>; requests name their tenant by a token, or in the header <code>{{.Header}}</code>.</p>
<h2>To look at</h2>
<ul>{{range .Routes}}{{if .Link}}<li><a href="{{.Path}}">{{.Path}}</a>{{end}}{{end}}</ul>
<h2>All routes</h2>
<table>{{range .Routes}}<tr><td>{{range $i, $m := .Methods}}{{if $i}}, {{end}}{{$m}}{{end}}<td><code>{{.Path}}</code><td>{{.Scope}}{{end}}</table>
</html>
`))
