package app

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/hearth-metrics/hearth/transport"
	"github.com/hearth-metrics/hearth/wire"
)

// newGRPCServer makes the server that other processes call. In one process
// nobody does; it answers health checks, so that the port can be probed.
func newGRPCServer(t *transport.Transport) (*grpc.Server, *health.Server) {
	s, h := grpc.NewServer(append(t.ServerOptions(), grpc.ForceServerCodecV2(wire.Codec{}))...), health.NewServer()
	h.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	healthpb.RegisterHealthServer(s, h)
	return s, h
}
