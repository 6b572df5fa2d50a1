package wire

import (
	"context"

	"github.com/oklog/ulid/v2"
	"google.golang.org/grpc"
)

// StoreServer is a store gateway as other members see it. Each method answers
// in frames: the first one comes at once and is empty, so that whoever asks
// knows that somebody is there; the last one names the blocks that were
// searched. An error of the kind NotFound says that the bucket does not have
// one of the blocks.
type StoreServer interface {
	// Select sends the series that match, in order of their labels. A series
	// that is in several blocks may come several times, one after the other.
	Select(ctx context.Context, r *BlocksSelect, send func(*SeriesFrame) error) error

	// Labels sends label names, or the values of one, sorted.
	Labels(ctx context.Context, r *BlocksLabels, send func(*LabelsFrame) error) error
}

// Blocks names stored blocks that have series of a tenant. It names no home,
// so nobody can ask for another tenant's blocks.
type Blocks struct {
	Own    []ulid.ULID `json:"own"`    // in the tenant's home
	Pooled []ulid.ULID `json:"pooled"` // in the home of the pool
}

// Len is how many blocks there are.
func (b *Blocks) Len() int { return len(b.Own) + len(b.Pooled) }

// BlocksSelect selects series of some blocks with their chunks.
type BlocksSelect struct {
	Span
	Blocks   Blocks    `json:"blocks"`
	Matchers []Matcher `json:"matchers"`
	NoChunks bool      `json:"no_chunks"` // only the labels are wanted
	Whole    bool      `json:"whole"`     // chunks may have samples outside of the span; this saves writing them anew
	Limit    int       `json:"limit"`     // series; 0: all
}

// BlocksLabels asks for names, or for the values of Name if it is not empty.
type BlocksLabels struct {
	Span
	Blocks   Blocks    `json:"blocks"`
	Matchers []Matcher `json:"matchers"`
	Name     string    `json:"name"`
	Limit    int       `json:"limit"` // 0: all
}

// LabelsFrame is some of the names or values that were asked for.
type LabelsFrame struct {
	Values   []string    `json:"values"`
	Searched []ulid.ULID `json:"searched"`
}

const storeService = "hearth.Store"

// RegisterStore has a server answer for a store gateway.
func RegisterStore(s grpc.ServiceRegistrar, store StoreServer) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: storeService,
		HandlerType: (*StoreServer)(nil),
		Streams:     []grpc.StreamDesc{stream("Select", StoreServer.Select), stream("Labels", StoreServer.Labels)},
	}, store)
}

// StoreClient calls a store gateway of another process. Errors are as the
// gateway has returned them where they are UserErrors.
type StoreClient struct{ conn grpc.ClientConnInterface }

// NewStoreClient calls over a connection, which stays the caller's.
func NewStoreClient(conn grpc.ClientConnInterface) *StoreClient { return &StoreClient{conn} }

// Select is StoreServer.Select. receive may keep what it gets.
func (c *StoreClient) Select(ctx context.Context, r *BlocksSelect, receive func(*SeriesFrame) error) error {
	return receiveAll(ctx, c.conn, "/"+storeService+"/Select", r, receive)
}

// Labels is StoreServer.Labels.
func (c *StoreClient) Labels(ctx context.Context, r *BlocksLabels, receive func(*LabelsFrame) error) error {
	return receiveAll(ctx, c.conn, "/"+storeService+"/Labels", r, receive)
}
