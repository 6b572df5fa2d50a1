package wire

import (
	"context"

	"google.golang.org/grpc"
)

// unary describes a method of a service with one request and one response.
func unary[S, Req, Res any](service, name string, call func(S, context.Context, *Req) (*Res, error)) grpc.MethodDesc {
	handle := func(srv any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
		req := new(Req)
		if err := decode(req); err != nil {
			return nil, err
		}
		serve := func(ctx context.Context, req any) (any, error) {
			res, err := call(srv.(S), ctx, req.(*Req))
			return res, ToStatus(err)
		}
		if intercept == nil {
			return serve(ctx, req)
		}
		return intercept(ctx, req, &grpc.UnaryServerInfo{Server: srv, FullMethod: "/" + service + "/" + name}, serve)
	}
	return grpc.MethodDesc{MethodName: name, Handler: handle}
}
