package ruler

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/gorilla/mux"
	"go.yaml.in/yaml/v3"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/ruler/rulefile"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

const (
	maxBody   = 1 << 20 // the largest group that is read
	maxChange = 4 << 20 // the largest change of many
)

// configPaths are where rules are kept by clients, in the spellings of Mimir,
// of Cortex, and of those that Grafana tries.
var configPaths = []string{"/prometheus/config/v1/rules", "/api/v1/rules", "/api/prom/rules", "/prometheus/rules"}

// RegisterRoutes adds what tenants ask. Requests come with their tenant in the
// context. Names of namespaces and groups may have slashes, which clients write
// as %2F.
func (r *Ruler) RegisterRoutes(reads, writes *mux.Router) {
	reads, writes = reads.NewRoute().Subrouter().UseEncodedPath(), writes.NewRoute().Subrouter().UseEncodedPath()
	handle := func(method, path string, h func(http.ResponseWriter, *http.Request, tenant.ID) error) {
		router := writes
		if method == http.MethodGet {
			router = reads
		}
		// The path first: mux takes a route whose method fits for the one that was
		// meant, and forgets that another with the path wants another method.
		router.Path(path).Methods(method).HandlerFunc(r.door(h))
	}
	for _, p := range configPaths {
		handle(http.MethodGet, p, r.getAll)
		handle(http.MethodGet, p+"/{namespace}", r.getNamespace)
		handle(http.MethodPost, p+"/{namespace}", r.postGroup)
		handle(http.MethodDelete, p+"/{namespace}", r.deleteNamespace)
		handle(http.MethodGet, p+"/{namespace}/{group}", r.getGroup)
		handle(http.MethodDelete, p+"/{namespace}/{group}", r.deleteGroup)
	}
	handle(http.MethodPatch, configPaths[0], r.patch)
	handle(http.MethodGet, "/api/v1/rules-history", r.getVersions)
	handle(http.MethodGet, "/api/v1/rules-history/{version:[0-9]+}", r.getVersion)
	handle(http.MethodPost, "/api/v1/rules-history/{version:[0-9]+}/restore", r.restoreVersion)
	handle(http.MethodPost, "/ruler/delete_tenant_config", r.deleteAll)
	for _, p := range []string{"/prometheus/api/v1", "/api/prom/api/v1"} {
		reads.Path(p + "/rules").Methods(http.MethodGet).HandlerFunc(r.serveRules)
		reads.Path(p + "/alerts").Methods(http.MethodGet).HandlerFunc(r.serveAlerts)
	}
}

// door finds the tenant and answers errors.
func (r *Ruler) door(h func(http.ResponseWriter, *http.Request, tenant.ID) error) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		id, err := tenant.FromContext(req.Context())
		if err == nil {
			err = h(w, req, id)
		}
		if err == nil {
			return
		}
		if wire.KindOf(err) == wire.Internal {
			r.logger.Error("rules not served", "tenant", id, "path", req.URL.Path, "err", err)
		}
		wire.WriteHTTPError(w, err)
	}
}

// names are the namespace and the group of a request's path.
func names(req *http.Request) (n groupName, err error) {
	vars := mux.Vars(req)
	if n.namespace, err = url.PathUnescape(vars["namespace"]); err == nil {
		n.group, err = url.PathUnescape(vars["group"])
	}
	if err != nil {
		return n, wire.Errorf(wire.Invalid, "err-rules-name", "the path has a name that is not escaped well: %s", err)
	}
	return n, nil
}

var (
	errNoRules = wire.Errorf(wire.NotFound, "err-rules-not-found", "no rule groups found")
	errNoGroup = wire.Errorf(wire.NotFound, "err-rule-group-not-found", "group does not exist")
)

func (r *Ruler) getAll(w http.ResponseWriter, req *http.Request, id tenant.ID) error {
	d, _, err := r.store.get(req.Context(), id)
	if err != nil {
		return err
	}
	return writeGroups(w, d.Namespaces)
}

func (r *Ruler) getNamespace(w http.ResponseWriter, req *http.Request, id tenant.ID) error {
	n, err := names(req)
	if err != nil {
		return err
	}
	d, _, err := r.store.get(req.Context(), id)
	if err != nil {
		return err
	}
	found := map[string][]Group{}
	if groups, ok := d.Namespaces[n.namespace]; ok {
		found[n.namespace] = groups
	}
	return writeGroups(w, found)
}

func writeGroups(w http.ResponseWriter, namespaces map[string][]Group) error {
	if len(namespaces) == 0 {
		return errNoRules
	}
	return writeYAML(w, namespaces)
}

func (r *Ruler) getGroup(w http.ResponseWriter, req *http.Request, id tenant.ID) error {
	n, err := names(req)
	if err != nil {
		return err
	}
	d, _, err := r.store.get(req.Context(), id)
	if err != nil {
		return err
	}
	g, ok := d.find(n.namespace, n.group)
	if !ok {
		return errNoGroup
	}
	return writeYAML(w, g)
}

func readBody(w http.ResponseWriter, req *http.Request, most int64) ([]byte, error) {
	text, err := io.ReadAll(http.MaxBytesReader(w, req.Body, most))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, wire.Errorf(wire.TooLarge, "err-rules-too-large", "the body is larger than %d bytes, divide it", most)
	case err != nil:
		return nil, wire.Errorf(wire.Invalid, "err-rules-invalid", "the body ended early: %s", err)
	}
	return text, nil
}

func (r *Ruler) postGroup(w http.ResponseWriter, req *http.Request, id tenant.ID) error {
	n, err := names(req)
	if err != nil {
		return err
	}
	text, err := readBody(w, req, maxBody)
	if err != nil {
		return err
	}
	g, err := parseGroup(text, r.Parser)
	if err != nil {
		return err
	}
	if _, err := r.sources(id, &g); err != nil {
		return err
	}
	c := rulefile.Change{Set: map[string][]Group{n.namespace: {g}}}
	return r.change(w, req, id, func(d *Document) (bool, error) { return d.apply(r.Limits(id), c) })
}

// patch changes many groups at once: all of them, as one version, or none.
func (r *Ruler) patch(w http.ResponseWriter, req *http.Request, id tenant.ID) error {
	text, err := readBody(w, req, maxChange)
	if err != nil {
		return err
	}
	c, err := rulefile.ParseChange(text, r.Parser)
	if err != nil {
		return invalid(err.Error())
	}
	for _, groups := range c.Set {
		for i := range groups {
			if _, err := r.sources(id, &groups[i]); err != nil {
				return err
			}
		}
	}
	return r.change(w, req, id, func(d *Document) (bool, error) { return d.apply(r.Limits(id), c) })
}

func (r *Ruler) deleteGroup(w http.ResponseWriter, req *http.Request, id tenant.ID) error {
	n, err := names(req)
	if err != nil {
		return err
	}
	return r.change(w, req, id, func(d *Document) (bool, error) {
		if !d.remove(n.namespace, n.group) {
			return false, errNoGroup
		}
		return true, nil
	})
}

func (r *Ruler) deleteNamespace(w http.ResponseWriter, req *http.Request, id tenant.ID) error {
	n, err := names(req)
	if err != nil {
		return err
	}
	return r.change(w, req, id, func(d *Document) (bool, error) {
		if _, ok := d.Namespaces[n.namespace]; !ok {
			return false, errNoRules
		}
		delete(d.Namespaces, n.namespace)
		return true, nil
	})
}

// change changes rules, has all rulers hear of it, and answers as Cortex does.
func (r *Ruler) change(w http.ResponseWriter, req *http.Request, id tenant.ID, f func(*Document) (bool, error)) error {
	if err := r.store.change(req.Context(), id, f); err != nil {
		return err
	}
	r.tellAll(req, id)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusAccepted)
	_, _ = io.WriteString(w, `{"status":"success","data":null,"errorType":"","error":""}`)
	return nil
}

func (r *Ruler) tellAll(req *http.Request, id tenant.ID) {
	r.changed(id)
	if r.Cluster != nil {
		r.Cluster.tell(req.Context(), id)
	}
}

// deleteAll forgets a tenant's rules and all earlier ones.
func (r *Ruler) deleteAll(w http.ResponseWriter, req *http.Request, id tenant.ID) error {
	if err := r.store.remove(req.Context(), id); err != nil {
		return err
	}
	r.tellAll(req, id)
	w.WriteHeader(http.StatusOK)
	return nil
}

// versionInfo is a version of a tenant's rules in a list.
type versionInfo struct {
	Version int       `json:"version"`
	At      time.Time `json:"at"`
	Groups  int       `json:"groups"`
	Current bool      `json:"current,omitempty"`
}

// getVersions lists the versions that there are, the newest first.
func (r *Ruler) getVersions(w http.ResponseWriter, req *http.Request, id tenant.ID) error {
	d, etag, err := r.store.get(req.Context(), id)
	if err != nil {
		return err
	}
	list := []versionInfo{}
	if etag != "" {
		list = append(list, versionInfo{d.Version, d.At, d.groups(), true})
	}
	old, err := r.store.versions(req.Context(), id)
	if err != nil {
		return err
	}
	for i := len(old) - 1; i >= 0; i-- {
		if old[i] >= d.Version { // written by somebody who then lost the race
			continue
		}
		v, err := r.store.version(req.Context(), id, old[i])
		if errors.Is(err, bucket.ErrNotFound) { // another change has just dropped it
			continue
		}
		if err != nil {
			return err
		}
		list = append(list, versionInfo{v.Version, v.At, v.groups(), false})
	}
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(list)
}

func (r *Ruler) getVersion(w http.ResponseWriter, req *http.Request, id tenant.ID) error {
	d, err := r.findVersion(req, id)
	if err != nil {
		return err
	}
	return writeYAML(w, d.Namespaces)
}

// restoreVersion makes an earlier version the newest one.
func (r *Ruler) restoreVersion(w http.ResponseWriter, req *http.Request, id tenant.ID) error {
	old, err := r.findVersion(req, id)
	if err != nil {
		return err
	}
	return r.change(w, req, id, func(d *Document) (bool, error) {
		d.Namespaces = old.Namespaces
		return true, nil
	})
}

func (r *Ruler) findVersion(req *http.Request, id tenant.ID) (Document, error) {
	n, err := strconv.Atoi(mux.Vars(req)["version"])
	if err != nil {
		return Document{}, wire.Errorf(wire.Invalid, "err-rules-name", "the version is not a number: %s", err)
	}
	d, _, err := r.store.get(req.Context(), id)
	if err == nil && (d.Version != n || n == 0) {
		d, err = r.store.version(req.Context(), id, n)
	}
	if errors.Is(err, bucket.ErrNotFound) {
		return Document{}, wire.Errorf(wire.NotFound, "err-rules-version-not-found", "there is no version %d of these rules any more, the last %d are kept", n, keptVersions)
	}
	return d, err
}

func writeYAML(w http.ResponseWriter, v any) error {
	text, err := yaml.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/yaml")
	_, _ = w.Write(text) // the client has hung up: nobody to tell
	return nil
}
