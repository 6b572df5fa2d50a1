package wire

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/prometheus/prometheus/model/labels"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// IngesterServer is an ingester as other members see it.
type IngesterServer interface {
	// Push stores a request. It releases it.
	Push(ctx context.Context, r *PushRequest) (*Pushed, error)

	// PushKeyed stores a request if all of its series are known and nothing has
	// to be refused, and nothing of it otherwise. It releases it.
	PushKeyed(ctx context.Context, r *KeyedRequest) (*KeyedAnswer, error)

	// Held names the blocks that a select of a tenant and time would search, so
	// that they need not be read from the bucket.
	Held(ctx context.Context, r *HeldRequest) (*HeldResponse, error)

	// Select sends the series that match, in order of their labels. It fails
	// where a block is not there that r.MustHold names.
	Select(ctx context.Context, r *SelectRequest, send func(*SeriesFrame) error) error

	// Labels returns label names, or the values of one, sorted.
	Labels(ctx context.Context, r *LabelsRequest) (*LabelsResponse, error)

	// Exemplars returns exemplars by series, sorted.
	Exemplars(ctx context.Context, r *ExemplarsRequest) (*ExemplarsResponse, error)

	// Metadata returns what is known of metrics.
	Metadata(ctx context.Context, r *MetadataRequest) (*MetadataResponse, error)
}

// Span is a tenant's data between two times in milliseconds, both inclusive.
type Span struct {
	Tenant string `json:"tenant"`
	MinT   int64  `json:"mint"`
	MaxT   int64  `json:"maxt"`
}

// HeldRequest asks for what Held returns.
type HeldRequest struct{ Span }

// HeldResponse has the ULIDs of blocks.
type HeldResponse struct {
	Blocks []string `json:"blocks"`
}

// Matcher is a label matcher.
type Matcher struct {
	Type  labels.MatchType `json:"type"`
	Name  string           `json:"name"`
	Value string           `json:"value"`
}

// SelectRequest selects series with their chunks.
type SelectRequest struct {
	Span
	MustHold []string  `json:"must_hold"`
	Matchers []Matcher `json:"matchers"`
	NoChunks bool      `json:"no_chunks"` // only the labels are wanted
	Limit    int       `json:"limit"`     // series; 0: all
}

// LabelsRequest asks for names, or for the values of Name if it is not empty.
type LabelsRequest struct {
	Span
	MustHold []string  `json:"must_hold"`
	Matchers []Matcher `json:"matchers"`
	Name     string    `json:"name"`
	Limit    int       `json:"limit"` // 0: all
}

// LabelsResponse has names or values.
type LabelsResponse struct {
	Values []string `json:"values"`
}

// ExemplarsRequest asks for exemplars of series that match one of the sets.
type ExemplarsRequest struct {
	Span
	Sets [][]Matcher `json:"sets"`
}

// ExemplarsResponse has them by series.
type ExemplarsResponse struct {
	Series []SeriesExemplars `json:"series"`
}

// SeriesExemplars is a series' exemplars.
type SeriesExemplars struct {
	Labels    labels.Labels  `json:"labels"`
	Exemplars []ExemplarData `json:"exemplars"`
}

// ExemplarData is an exemplar; its value travels as the bits of the float, for
// JSON has no NaN.
type ExemplarData struct {
	Labels labels.Labels `json:"labels"`
	Bits   uint64        `json:"bits"`
	T      int64         `json:"t"` // ms
}

// MetadataRequest asks for one metric's metadata, or that of all.
type MetadataRequest struct {
	Tenant         string `json:"tenant"`
	Metric         string `json:"metric"`
	Limit          int    `json:"limit"`
	LimitPerMetric int    `json:"limit_per_metric"`
}

// MetadataResponse has them by metric.
type MetadataResponse struct {
	Metrics map[string][]MetricMetadata `json:"metrics"`
}

// MetricMetadata is a type, a unit and a help text.
type MetricMetadata struct {
	Type string `json:"type"`
	Unit string `json:"unit"`
	Help string `json:"help"`
}

// ToMatchers and FromMatchers convert matchers for the way between members.
func ToMatchers(ms []*labels.Matcher) []Matcher {
	out := make([]Matcher, len(ms))
	for i, m := range ms {
		out[i] = Matcher{m.Type, m.Name, m.Value}
	}
	return out
}

// FromMatchers is the other direction.
func FromMatchers(ms []Matcher) ([]*labels.Matcher, error) {
	out := make([]*labels.Matcher, len(ms))
	for i, m := range ms {
		var err error
		if out[i], err = labels.NewMatcher(m.Type, m.Name, m.Value); err != nil {
			return nil, fmt.Errorf("matcher %s: %w", m.Name, err)
		}
	}
	return out, nil
}

const ingesterService = "hearth.Ingester"

// RegisterIngester has a server answer for an ingester.
func RegisterIngester(s grpc.ServiceRegistrar, ing IngesterServer) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: ingesterService,
		HandlerType: (*IngesterServer)(nil),
		Methods: []grpc.MethodDesc{
			unary(ingesterService, "Push", IngesterServer.Push),
			unary(ingesterService, "PushKeyed", IngesterServer.PushKeyed),
			unary(ingesterService, "Held", IngesterServer.Held),
			unary(ingesterService, "Labels", IngesterServer.Labels),
			unary(ingesterService, "Exemplars", IngesterServer.Exemplars),
			unary(ingesterService, "Metadata", IngesterServer.Metadata),
		},
		Streams: []grpc.StreamDesc{stream("Select", IngesterServer.Select)},
	}, ing)
}

// stream describes a method of a server S with one request and many frames.
func stream[S, Req, Frame any](name string, call func(S, context.Context, *Req, func(*Frame) error) error) grpc.StreamDesc {
	return grpc.StreamDesc{StreamName: name, ServerStreams: true, Handler: func(srv any, st grpc.ServerStream) error {
		req := new(Req)
		if err := st.RecvMsg(req); err != nil {
			return err
		}
		return ToStatus(call(srv.(S), st.Context(), req, func(f *Frame) error { return st.SendMsg(f) }))
	}}
}

// receiveAll calls a method with many frames, and receive with each.
func receiveAll[Frame any](ctx context.Context, conn grpc.ClientConnInterface, method string, req any, receive func(*Frame) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the stream whatever happens
	st, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method, grpc.ForceCodecV2(Codec{}))
	if err != nil {
		return FromStatus(err)
	}
	if err := errors.Join(st.SendMsg(req), st.CloseSend()); err != nil && !errors.Is(err, io.EOF) {
		return FromStatus(err)
	}
	for {
		f := new(Frame)
		switch err := st.RecvMsg(f); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return FromStatus(err)
		}
		if err := receive(f); err != nil {
			return err
		}
	}
}

// IngesterClient calls an ingester of another process. Errors are as the
// ingester has returned them where they are UserErrors.
type IngesterClient struct{ conn grpc.ClientConnInterface }

// NewIngesterClient calls over a connection, which stays the caller's.
func NewIngesterClient(conn grpc.ClientConnInterface) *IngesterClient { return &IngesterClient{conn} }

func (c *IngesterClient) invoke(ctx context.Context, method string, req, res any) error {
	return FromStatus(c.conn.Invoke(ctx, "/"+ingesterService+"/"+method, req, res, grpc.ForceCodecV2(Codec{})))
}

// Push is IngesterServer.Push. r's body is never changed again: where ctx ends
// early it may still be on its way out when Push returns.
func (c *IngesterClient) Push(ctx context.Context, r *PushRequest) (*Pushed, error) {
	res := new(Pushed)
	return res, c.invoke(ctx, "Push", r, res)
}

// PushKeyed is IngesterServer.PushKeyed; the same holds for r's body. An ingester
// of a version that has no such method knows no series.
func (c *IngesterClient) PushKeyed(ctx context.Context, r *KeyedRequest) (*KeyedAnswer, error) {
	res := new(KeyedAnswer)
	err := c.conn.Invoke(ctx, "/"+ingesterService+"/PushKeyed", r, res, grpc.ForceCodecV2(Codec{}))
	if status.Code(err) == codes.Unimplemented {
		return res, nil
	}
	return res, FromStatus(err)
}

// Held is IngesterServer.Held.
func (c *IngesterClient) Held(ctx context.Context, r *HeldRequest) (*HeldResponse, error) {
	res := new(HeldResponse)
	return res, c.invoke(ctx, "Held", r, res)
}

// Labels is IngesterServer.Labels.
func (c *IngesterClient) Labels(ctx context.Context, r *LabelsRequest) (*LabelsResponse, error) {
	res := new(LabelsResponse)
	return res, c.invoke(ctx, "Labels", r, res)
}

// Exemplars is IngesterServer.Exemplars.
func (c *IngesterClient) Exemplars(ctx context.Context, r *ExemplarsRequest) (*ExemplarsResponse, error) {
	res := new(ExemplarsResponse)
	return res, c.invoke(ctx, "Exemplars", r, res)
}

// Metadata is IngesterServer.Metadata.
func (c *IngesterClient) Metadata(ctx context.Context, r *MetadataRequest) (*MetadataResponse, error) {
	res := new(MetadataResponse)
	return res, c.invoke(ctx, "Metadata", r, res)
}

// Select is IngesterServer.Select. receive is called with each frame; what it
// gets it may keep.
func (c *IngesterClient) Select(ctx context.Context, r *SelectRequest, receive func(*SeriesFrame) error) error {
	return receiveAll(ctx, c.conn, "/"+ingesterService+"/Select", r, receive)
}
