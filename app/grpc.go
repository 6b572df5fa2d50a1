package app

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// newGRPCServer makes the server that other processes call. In one process
// nobody does; it answers health checks, so that the port can be probed.
func newGRPCServer() (*grpc.Server, *health.Server) {
	s, h := grpc.NewServer(), health.NewServer()
	h.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	healthpb.RegisterHealthServer(s, h)
	return s, h
}
