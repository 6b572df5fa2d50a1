package wire

import (
	"context"
	"encoding/json"
	"time"

	"google.golang.org/grpc"
)

// AlertmanagerServer is an alertmanager as other members see it.
type AlertmanagerServer interface {
	// Serve answers a tenant's request to the HTTP API from what this member has.
	Serve(ctx context.Context, r *APIRequest) (*APIResponse, error)

	// State is what this member has of a tenant.
	State(ctx context.Context, r *StateRequest) (*AlertState, error)

	// Merge adds what another member has of a tenant.
	Merge(ctx context.Context, r *AlertState) (*MergeResponse, error)

	// Reload looks at once whether a tenant's configuration has changed.
	Reload(ctx context.Context, r *StateRequest) (*MergeResponse, error)
}

// APIRequest is a tenant's request to the Alertmanager API.
type APIRequest struct {
	Tenant string    `json:"tenant"`
	Method string    `json:"method"`
	Path   string    `json:"path"` // as the API names it: begins with /api/v2/
	Query  string    `json:"query"`
	Body   []byte    `json:"body"`
	At     time.Time `json:"at"` // when it came in; of alerts that are told twice, the later counts
}

// APIResponse is the answer to it.
type APIResponse struct {
	Status      int    `json:"status"`
	ContentType string `json:"content_type"`
	Body        []byte `json:"body"`
}

// StateRequest names a tenant.
type StateRequest struct {
	Tenant string `json:"tenant"`
}

// AlertState is what members tell each other of a tenant, all of it or what is
// new. Silences and the log of notifications are as upstream's gossip has them.
type AlertState struct {
	Tenant   string          `json:"tenant"`
	Silences []byte          `json:"silences,omitempty"`
	Log      []byte          `json:"log,omitempty"`
	Alerts   json.RawMessage `json:"alerts,omitempty"`
}

// MergeResponse says that it was done.
type MergeResponse struct{}

const alertmanagerService = "hearth.Alertmanager"

// RegisterAlertmanager has a server answer for an alertmanager.
func RegisterAlertmanager(s grpc.ServiceRegistrar, am AlertmanagerServer) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: alertmanagerService,
		HandlerType: (*AlertmanagerServer)(nil),
		Methods: []grpc.MethodDesc{
			unary(alertmanagerService, "Serve", AlertmanagerServer.Serve),
			unary(alertmanagerService, "State", AlertmanagerServer.State),
			unary(alertmanagerService, "Merge", AlertmanagerServer.Merge),
			unary(alertmanagerService, "Reload", AlertmanagerServer.Reload),
		},
	}, am)
}

// AlertmanagerClient calls an alertmanager of another process.
type AlertmanagerClient struct{ conn grpc.ClientConnInterface }

// NewAlertmanagerClient calls over a connection, which stays the caller's.
func NewAlertmanagerClient(conn grpc.ClientConnInterface) *AlertmanagerClient {
	return &AlertmanagerClient{conn}
}

func (c *AlertmanagerClient) invoke(ctx context.Context, method string, req, res any) error {
	return FromStatus(c.conn.Invoke(ctx, "/"+alertmanagerService+"/"+method, req, res, grpc.ForceCodecV2(Codec{})))
}

// Serve is AlertmanagerServer.Serve.
func (c *AlertmanagerClient) Serve(ctx context.Context, r *APIRequest) (*APIResponse, error) {
	res := new(APIResponse)
	return res, c.invoke(ctx, "Serve", r, res)
}

// State is AlertmanagerServer.State.
func (c *AlertmanagerClient) State(ctx context.Context, r *StateRequest) (*AlertState, error) {
	res := new(AlertState)
	return res, c.invoke(ctx, "State", r, res)
}

// Merge is AlertmanagerServer.Merge.
func (c *AlertmanagerClient) Merge(ctx context.Context, r *AlertState) (*MergeResponse, error) {
	res := new(MergeResponse)
	return res, c.invoke(ctx, "Merge", r, res)
}

// Reload is AlertmanagerServer.Reload.
func (c *AlertmanagerClient) Reload(ctx context.Context, r *StateRequest) (*MergeResponse, error) {
	res := new(MergeResponse)
	return res, c.invoke(ctx, "Reload", r, res)
}
