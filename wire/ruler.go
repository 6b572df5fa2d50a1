package wire

import (
	"context"
	"encoding/json"

	"google.golang.org/grpc"
)

// RulerServer is a ruler as other members see it.
type RulerServer interface {
	// Rules returns the groups of a tenant that the ruler evaluates.
	Rules(ctx context.Context, r *RulesRequest) (*RulesResponse, error)
}

// RulesRequest names the tenant.
type RulesRequest struct {
	Tenant string `json:"tenant"`
}

// RulesResponse has the groups as in Prometheus' API.
type RulesResponse struct {
	Groups []json.RawMessage `json:"groups"`
}

const rulerService = "hearth.Ruler"

// RegisterRuler has a server answer for a ruler.
func RegisterRuler(s grpc.ServiceRegistrar, r RulerServer) {
	rules := func(srv any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		req := new(RulesRequest)
		if err := decode(req); err != nil {
			return nil, err
		}
		serve := func(ctx context.Context, req any) (any, error) {
			res, err := srv.(RulerServer).Rules(ctx, req.(*RulesRequest))
			return res, ToStatus(err)
		}
		if intercept == nil {
			return serve(ctx, req)
		}
		return intercept(ctx, req, &grpc.UnaryServerInfo{Server: srv, FullMethod: "/" + rulerService + "/Rules"}, serve)
	}
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: rulerService,
		HandlerType: (*RulerServer)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Rules", Handler: rules}},
	}, r)
}

// RulerClient calls a ruler of another process.
type RulerClient struct{ conn grpc.ClientConnInterface }

// NewRulerClient calls over a connection, which stays the caller's.
func NewRulerClient(conn grpc.ClientConnInterface) *RulerClient { return &RulerClient{conn} }

// Rules is RulerServer.Rules.
func (c *RulerClient) Rules(ctx context.Context, r *RulesRequest) (*RulesResponse, error) {
	res := new(RulesResponse)
	return res, FromStatus(c.conn.Invoke(ctx, "/"+rulerService+"/Rules", r, res, grpc.ForceCodecV2(Codec{})))
}
