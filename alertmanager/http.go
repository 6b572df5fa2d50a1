package alertmanager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/mux"
	yaml "go.yaml.in/yaml/v3"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

const (
	configPath = "/api/v1/alerts"
	apiPrefix  = "/alertmanager"
	maxBody    = 32 << 20 // what a tenant may send is in its limits
)

// RegisterRoutes adds what tenants ask: what only looks at reads, what changes
// something at writes.
func (a *Alertmanager) RegisterRoutes(reads, writes *mux.Router) {
	reads.HandleFunc(configPath, a.answer(a.getConfig)).Methods(http.MethodGet)
	writes.HandleFunc(configPath, a.answer(a.postConfig)).Methods(http.MethodPost)
	writes.HandleFunc(configPath, a.answer(a.deleteConfig)).Methods(http.MethodDelete)
	reads.HandleFunc(configPath+"/history", a.answer(a.history)).Methods(http.MethodGet)
	writes.HandleFunc(configPath+"/rollback", a.answer(a.rollback)).Methods(http.MethodPost)
	writes.HandleFunc(configPath+"/test", a.answer(a.test)).Methods(http.MethodPost)
	writes.HandleFunc("/multitenant_alertmanager/delete_tenant_config", a.answer(a.forget)).Methods(http.MethodPost)
	reads.PathPrefix(apiPrefix + "/api/v2/").HandlerFunc(a.answer(a.serveAPI)).Methods(http.MethodGet)
	writes.PathPrefix(apiPrefix+"/api/v2/").HandlerFunc(a.answer(a.serveAPI)).Methods(http.MethodPost, http.MethodDelete)
}

// RegisterOpenRoutes adds what probes ask.
func (a *Alertmanager) RegisterOpenRoutes(r *mux.Router) {
	healthy := func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "OK\n") } // a client that is gone needs none
	r.HandleFunc(apiPrefix+"/-/healthy", healthy).Methods(http.MethodGet, http.MethodHead)
	r.HandleFunc(apiPrefix+"/-/ready", healthy).Methods(http.MethodGet, http.MethodHead)
}

// RegisterOperatorRoutes adds what operators ask.
func (a *Alertmanager) RegisterOperatorRoutes(r *mux.Router) {
	r.HandleFunc("/multitenant_alertmanager/status", a.status).Methods(http.MethodGet)
	r.HandleFunc("/multitenant_alertmanager/configs", a.configs).Methods(http.MethodGet)
}

// answer turns an error into a response.
func (a *Alertmanager) answer(f func(http.ResponseWriter, *http.Request, tenant.ID) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		id, err := tenant.FromContext(r.Context())
		if err == nil {
			err = f(w, r, id)
		}
		if err == nil {
			return
		}
		if wire.KindOf(err) == wire.Internal {
			a.logger.Error("alertmanager request failed", "tenant", id, "path", r.URL.Path, "err", err)
		}
		wire.WriteHTTPError(w, err)
	}
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, wire.Errorf(wire.TooLarge, "err-alertmanager-request", "the request has more than %d bytes", maxBody)
	case err != nil:
		return nil, wire.Errorf(wire.Invalid, "err-alertmanager-request", "the request cannot be read: %s", err)
	}
	return body, nil
}

// serveAPI has the tenant's replicas answer. Alerts go to all of them.
func (a *Alertmanager) serveAPI(w http.ResponseWriter, r *http.Request, id tenant.ID) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	req := &wire.APIRequest{Tenant: string(id), Method: r.Method, Path: strings.TrimPrefix(r.URL.EscapedPath(), apiPrefix), Query: r.URL.RawQuery, Body: body}
	call := a.place.ask
	if r.Method == http.MethodPost && req.Path == alertsPath {
		call = a.place.post
	}
	res, err := call(r.Context(), req)
	if err != nil {
		return err
	}
	if res.ContentType != "" {
		w.Header().Set("Content-Type", res.ContentType)
	}
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(res.Status)
	_, _ = w.Write(res.Body) // the client has hung up: nobody to tell
	return nil
}

func (a *Alertmanager) getConfig(w http.ResponseWriter, r *http.Request, id tenant.ID) error {
	v, _, err := a.store.current(r.Context(), id)
	if err != nil {
		return notFound(err, "alertmanager storage object not found")
	}
	out, err := yaml.Marshal(v.UserConfig)
	if err != nil {
		return fmt.Errorf("encode the configuration: %w", err)
	}
	w.Header().Set("Content-Type", "application/yaml")
	_, _ = w.Write(out) // the client has hung up: nobody to tell
	return nil
}

// notFound says in a tenant's words what a bucket did not have.
func notFound(err error, what string) error {
	if errors.Is(err, bucket.ErrNotFound) {
		return wire.Errorf(wire.NotFound, "err-alertmanager-config-not-found", "%s", what)
	}
	return err
}

func (a *Alertmanager) postConfig(w http.ResponseWriter, r *http.Request, id tenant.ID) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	c, err := readConfig(body)
	if err != nil {
		return err
	}
	return a.set(w, r, id, c)
}

// set checks, stores and tells the members of a configuration.
func (a *Alertmanager) set(w http.ResponseWriter, r *http.Request, id tenant.ID, c UserConfig) error {
	if _, err := a.load(id, c); err != nil {
		return err
	}
	if err := a.store.put(r.Context(), id, c); err != nil {
		return fmt.Errorf("store the configuration: %w", err)
	}
	a.tell(r.Context(), id)
	w.WriteHeader(http.StatusCreated)
	return nil
}

// tellPatience is how long a request waits for the members to take a
// configuration. Those that do not in time see it a little later.
const tellPatience = 5 * time.Second

func (a *Alertmanager) tell(ctx context.Context, id tenant.ID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tellPatience)
	defer cancel()
	errs := a.place.everyone(ctx, func(ctx context.Context, am wire.AlertmanagerServer) error {
		_, err := am.Reload(ctx, &wire.StateRequest{Tenant: string(id)})
		return err
	})
	if err := errors.Join(errs...); err != nil {
		a.logger.Warn("configuration is stored, but not all members have taken it yet", "tenant", id, "err", err)
	}
}

func (a *Alertmanager) deleteConfig(w http.ResponseWriter, r *http.Request, id tenant.ID) error {
	if err := a.store.remove(r.Context(), id); err != nil {
		return fmt.Errorf("delete the configuration: %w", err)
	}
	a.tell(r.Context(), id)
	w.WriteHeader(http.StatusOK)
	return nil
}

func (a *Alertmanager) history(w http.ResponseWriter, r *http.Request, id tenant.ID) error {
	numbers, err := a.store.numbers(r.Context(), id)
	if err != nil {
		return err
	}
	all := make([]Version, 0, len(numbers))
	for _, n := range numbers {
		v, err := a.store.version(r.Context(), id, n)
		if err != nil {
			return notFound(err, "the history has just changed, ask again")
		}
		all = append(all, v)
	}
	return writeJSON(w, all)
}

func (a *Alertmanager) rollback(w http.ResponseWriter, r *http.Request, id tenant.ID) error {
	n, err := strconv.Atoi(r.URL.Query().Get("version"))
	if err != nil {
		return invalid("the parameter version must be a number of the history")
	}
	v, err := a.store.version(r.Context(), id, n)
	if err != nil {
		return notFound(err, fmt.Sprintf("there is no version %d", n))
	}
	return a.set(w, r, id, v.UserConfig)
}

func writeJSON(w http.ResponseWriter, v any) error {
	out, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(out) // the client has hung up: nobody to tell
	return nil
}
