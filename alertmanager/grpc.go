package alertmanager

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// Server is the alertmanager as other members see it.
func (a *Alertmanager) Server() wire.AlertmanagerServer { return server{a} }

type server struct{ a *Alertmanager }

// Serve implements wire.AlertmanagerServer.
func (s server) Serve(ctx context.Context, r *wire.APIRequest) (*wire.APIResponse, error) {
	in, done, err := s.a.here(ctx, tenant.ID(r.Tenant))
	post := r.Method == http.MethodPost && r.Path == alertsPath
	if err != nil {
		if post && wire.KindOf(err) == wire.NotFound {
			s.a.metrics.dropped.WithLabelValues("not_configured").Inc()
		}
		return nil, err
	}
	defer done()
	if post {
		return in.take(ctx, r.Body, r.At)
	}
	if err := checkRequest(r); err != nil {
		return nil, err
	}
	return in.serve(ctx, r)
}

// serve has upstream's API answer.
func (in *instance) serve(ctx context.Context, r *wire.APIRequest) (*wire.APIResponse, error) {
	api, err := in.handler()
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, r.Method, "http://alertmanager"+r.Path+"?"+r.Query, bytes.NewReader(r.Body))
	if err != nil {
		return nil, wire.Errorf(wire.Invalid, "err-alertmanager-request", "the request cannot be read: %s", err)
	}
	req.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	api.Handler.ServeHTTP(w, req)
	if r.Method != http.MethodGet {
		// A silence that was acknowledged is on the other replicas that can be reached.
		in.news.told(ctx)
	}
	return &wire.APIResponse{Status: w.Code, ContentType: w.Header().Get("Content-Type"), Body: w.Body.Bytes()}, nil
}

// State implements wire.AlertmanagerServer. One that sleeps has nothing that is
// not in the bucket: its state is empty.
func (s server) State(ctx context.Context, r *wire.StateRequest) (*wire.AlertState, error) {
	id := tenant.ID(r.Tenant)
	if in := s.a.use(id); in != nil {
		defer in.done()
		in.settle(ctx) // who asks is going to send what is not in the log
		return in.state()
	}
	if err := s.a.whyNot(id); err != nil {
		return nil, err
	}
	return &wire.AlertState{Tenant: r.Tenant}, nil
}

// Merge implements wire.AlertmanagerServer.
func (s server) Merge(ctx context.Context, r *wire.AlertState) (*wire.MergeResponse, error) {
	in, done, err := s.a.here(ctx, tenant.ID(r.Tenant))
	if err != nil {
		return nil, err
	}
	defer done()
	return &wire.MergeResponse{}, in.merge(ctx, r)
}

// Reload implements wire.AlertmanagerServer.
func (s server) Reload(ctx context.Context, r *wire.StateRequest) (*wire.MergeResponse, error) {
	return &wire.MergeResponse{}, s.a.change(ctx, tenant.ID(r.Tenant))
}
