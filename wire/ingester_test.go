package wire

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// fakeIngester answers with what a test puts in.
type fakeIngester struct {
	keyed     func(ctx context.Context, r *KeyedRequest) (*KeyedAnswer, error)
	push      func(context.Context, *PushRequest) (*Pushed, error)
	held      func(context.Context, *HeldRequest) (*HeldResponse, error)
	sel       func(context.Context, *SelectRequest, func(*SeriesFrame) error) error
	labels    func(*LabelsRequest) (*LabelsResponse, error)
	exemplars func(*ExemplarsRequest) (*ExemplarsResponse, error)
	metadata  func(*MetadataRequest) (*MetadataResponse, error)
}

func (f *fakeIngester) Push(ctx context.Context, r *PushRequest) (*Pushed, error) {
	defer r.Release()
	return f.push(ctx, r)
}

func (f *fakeIngester) PushKeyed(ctx context.Context, r *KeyedRequest) (*KeyedAnswer, error) {
	return f.keyed(ctx, r)
}

func (f *fakeIngester) Held(ctx context.Context, r *HeldRequest) (*HeldResponse, error) {
	return f.held(ctx, r)
}

func (f *fakeIngester) Select(ctx context.Context, r *SelectRequest, send func(*SeriesFrame) error) error {
	return f.sel(ctx, r, send)
}

func (f *fakeIngester) Labels(_ context.Context, r *LabelsRequest) (*LabelsResponse, error) {
	return f.labels(r)
}

func (f *fakeIngester) Exemplars(_ context.Context, r *ExemplarsRequest) (*ExemplarsResponse, error) {
	return f.exemplars(r)
}

func (f *fakeIngester) Metadata(_ context.Context, r *MetadataRequest) (*MetadataResponse, error) {
	return f.metadata(r)
}

// call serves an ingester on loopback and returns its client.
func call(t *testing.T, ing IngesterServer, opts ...grpc.ServerOption) *IngesterClient {
	t.Helper()
	return NewIngesterClient(connect(t, ing, opts...))
}

func connect(t *testing.T, ing IngesterServer, opts ...grpc.ServerOption) *grpc.ClientConn {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := grpc.NewServer(append(opts, grpc.ForceServerCodecV2(Codec{}))...)
	RegisterIngester(s, ing)
	healthpb.RegisterHealthServer(s, health.NewServer())
	served := make(chan error, 1)
	go func() { served <- s.Serve(lis) }()
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, conn.Close())
		s.Stop()
		require.NoError(t, <-served)
	})
	return conn
}

var testSpan = Span{Tenant: "t ü", MinT: math.MinInt64, MaxT: math.MaxInt64}

// What goes in at one end comes out at the other, for every method.
func TestIngesterCalls(t *testing.T) {
	t.Parallel()
	ms := []Matcher{{labels.MatchEqual, "a", ""}, {labels.MatchNotRegexp, "ü", `"x\y|z"`}}
	held, heldAnswer := &HeldRequest{testSpan}, &HeldResponse{[]string{"A", "B"}}
	label, labelAnswer := &LabelsRequest{testSpan, []string{"A"}, ms, "name", 7}, &LabelsResponse{[]string{"x", "日本"}}
	sel := &SelectRequest{testSpan, []string{"A"}, ms, true, 9}
	exs := &ExemplarsRequest{testSpan, [][]Matcher{ms, {}}}
	exsAnswer := &ExemplarsResponse{[]SeriesExemplars{{labels.FromStrings("a", "ü"), []ExemplarData{
		{labels.FromStrings("trace_id", "1"), math.Float64bits(math.NaN()), -5}, {labels.EmptyLabels(), math.Float64bits(math.Inf(-1)), math.MaxInt64},
	}}}}
	meta, metaAnswer := &MetadataRequest{"t", "m", -1, 5}, &MetadataResponse{map[string][]MetricMetadata{"m": {{"gauge", "seconds", "How \"long\"."}}, "n": nil}}
	frame := frames(t)["all"]
	c := call(t, &fakeIngester{
		held:      func(_ context.Context, r *HeldRequest) (*HeldResponse, error) { return heldAnswer, same(held, r) },
		labels:    func(r *LabelsRequest) (*LabelsResponse, error) { return labelAnswer, same(label, r) },
		exemplars: func(r *ExemplarsRequest) (*ExemplarsResponse, error) { return exsAnswer, same(exs, r) },
		metadata:  func(r *MetadataRequest) (*MetadataResponse, error) { return metaAnswer, same(meta, r) },
		sel: func(_ context.Context, r *SelectRequest, send func(*SeriesFrame) error) error {
			return errors.Join(same(sel, r), send(frame), send(&SeriesFrame{}), send(frame))
		},
	})
	gotHeld, err := c.Held(t.Context(), held)
	require.NoError(t, err)
	require.Equal(t, heldAnswer, gotHeld)
	gotLabels, err := c.Labels(t.Context(), label)
	require.NoError(t, err)
	require.Equal(t, labelAnswer, gotLabels)
	gotExs, err := c.Exemplars(t.Context(), exs)
	require.NoError(t, err)
	require.Equal(t, exsAnswer, gotExs)
	gotMeta, err := c.Metadata(t.Context(), meta)
	require.NoError(t, err)
	require.Equal(t, metaAnswer, gotMeta)
	var got []*SeriesFrame
	require.NoError(t, c.Select(t.Context(), sel, func(f *SeriesFrame) error { got = append(got, f); return nil }))
	require.Len(t, got, 3)
	sameFrame(t, frame, got[0])
	require.Empty(t, got[1].Series)
	sameFrame(t, frame, got[2])
}

func same(want, got any) error {
	if w, g := fmt.Sprintf("%#v", want), fmt.Sprintf("%#v", got); w != g {
		return fmt.Errorf("sent %s, received %s", w, g)
	}
	return nil
}

// Pushes carry their bodies whole, many at a time, and the memory in which
// they come is given back when they are released, not before.
func TestIngesterPush(t *testing.T) {
	t.Parallel()
	pool := &spoilingPool{from: mem.DefaultBufferPool()}
	want := &Pushed{Samples: 1, Histograms: 2, Exemplars: 3, Series: 4}
	want.Refused.Add("err-x", 5, func() *UserError { return &UserError{Invalid, "err-x", "no ü", time.Second} })
	c := call(t, &fakeIngester{push: func(_ context.Context, r *PushRequest) (*Pushed, error) {
		for range 3 { // others come meanwhile
			if r.Tenant != "t" || r.Version != V2 || !r.Snappy || r.Without != "w" || strings.Trim(string(r.Body), string(r.Body[:1])) != "" {
				return nil, fmt.Errorf("received %q %d %v %q", r.Tenant, r.Version, r.Snappy, r.Without)
			}
		}
		return want, nil
	}}, experimental.BufferPool(pool))
	done := make(chan error)
	const senders, pushes = 8, 20
	for i := range senders {
		go func() {
			done <- func() error {
				for n := range pushes {
					body := strings.Repeat(string(rune('a'+i)), 1+n*10_000)
					got, err := c.Push(t.Context(), &PushRequest{Tenant: "t", Version: V2, Snappy: true, Without: "w", Body: []byte(body)})
					if err = errors.Join(err, same(want.Refused.Counts, got.Refused.Counts), same(want.Refused.First.Error(), got.Refused.First.Error())); err != nil {
						return err
					}
					if got.Refused, err = want.Refused, same(want.Samples, got.Samples); err != nil || got.Series != 4 || got.Refused.First.RetryAfter != time.Second {
						return fmt.Errorf("%w: %v", err, got)
					}
				}
				return nil
			}()
		}()
	}
	for range senders {
		require.NoError(t, <-done)
	}
	require.Positive(t, pool.gave.Load(), "the pool is in use")
}

// spoilingPool writes over what it is given back.
type spoilingPool struct {
	from mem.BufferPool
	gave atomic.Int64
}

func (p *spoilingPool) Get(n int) *[]byte { return p.from.Get(n) }

func (p *spoilingPool) Put(b *[]byte) {
	p.gave.Add(1)
	for i := range *b {
		(*b)[i] = 0xee
	}
	p.from.Put(b)
}

// Each error that one member returns is what the other gets: all that a
// tenant is told, and of others what it takes to decide.
func TestIngesterErrors(t *testing.T) {
	t.Parallel()
	var fail atomic.Pointer[error]
	get := func() error { return *fail.Load() }
	c := call(t, &fakeIngester{
		push:      func(context.Context, *PushRequest) (*Pushed, error) { return nil, get() },
		held:      func(context.Context, *HeldRequest) (*HeldResponse, error) { return nil, get() },
		labels:    func(*LabelsRequest) (*LabelsResponse, error) { return nil, get() },
		exemplars: func(*ExemplarsRequest) (*ExemplarsResponse, error) { return nil, get() },
		metadata:  func(*MetadataRequest) (*MetadataResponse, error) { return nil, get() },
		sel: func(_ context.Context, _ *SelectRequest, send func(*SeriesFrame) error) error {
			return errors.Join(send(&SeriesFrame{}), get())
		},
	})
	calls := map[string]func() error{
		"push":      func() error { _, err := c.Push(t.Context(), &PushRequest{}); return err },
		"held":      func() error { _, err := c.Held(t.Context(), &HeldRequest{}); return err },
		"labels":    func() error { _, err := c.Labels(t.Context(), &LabelsRequest{}); return err },
		"exemplars": func() error { _, err := c.Exemplars(t.Context(), &ExemplarsRequest{}); return err },
		"metadata":  func() error { _, err := c.Metadata(t.Context(), &MetadataRequest{}); return err },
		"select": func() error {
			return c.Select(t.Context(), &SelectRequest{}, func(*SeriesFrame) error { return nil })
		},
	}
	for name, do := range calls {
		for kind := Internal; kind <= Forbidden; kind++ {
			want := &UserError{Kind: kind, ID: "err-some-id", Msg: "a sentence, ü \"quoted\" 100%\nand a line", RetryAfter: 1500 * time.Millisecond}
			err := fmt.Errorf("wrapped: %w", want)
			fail.Store(&err)
			var got *UserError
			require.ErrorAs(t, do(), &got, name)
			require.Equal(t, want, got, name)
		}
		err := error(Errorf(Invalid, "err-x", "label \"\xff\" is no UTF-8"))
		fail.Store(&err)
		require.Equal(t, Errorf(Invalid, "err-x", "label \"\uFFFD\" is no UTF-8"), do(), name)

		for _, c := range []struct {
			err  error
			kind Kind
			is   error
		}{
			{errors.New("disk on fire"), Internal, nil},
			{fmt.Errorf("read: %w", context.Canceled), Unavailable, context.Canceled},
			{fmt.Errorf("read: %w", context.DeadlineExceeded), Unavailable, context.DeadlineExceeded},
		} {
			fail.Store(&c.err)
			got := do()
			require.ErrorContains(t, got, c.err.Error(), name)
			require.Equal(t, c.kind, KindOf(got), name)
			var ue *UserError
			require.NotErrorAs(t, got, &ue)
			if c.is != nil {
				require.ErrorIs(t, got, c.is)
			}
		}
	}
}

func TestStatusOfOthers(t *testing.T) {
	t.Parallel()
	require.NoError(t, ToStatus(nil))
	require.NoError(t, FromStatus(nil))
	plain := errors.New("plain")
	require.Equal(t, plain, FromStatus(plain))
	foreign := status.Error(codes.InvalidArgument, "of somebody else")
	require.Equal(t, foreign, FromStatus(foreign))
	require.Equal(t, Internal, KindOf(FromStatus(foreign)))
	// A kind that only a later version knows is not taken for one of ours.
	later, err := status.New(codes.Aborted, "new").WithDetails(&errdetails.ErrorInfo{Domain: errorDomain, Reason: "err-new", Metadata: map[string]string{"kind": "99"}})
	require.NoError(t, err)
	require.Equal(t, Errorf(Internal, "err-new", "new"), FromStatus(later.Err()))
}

// Who stops waiting is served no longer.
func TestIngesterCancel(t *testing.T) {
	t.Parallel()
	entered, left := make(chan struct{}, 2), make(chan error, 2)
	wait := func(ctx context.Context) error {
		entered <- struct{}{}
		<-ctx.Done()
		left <- ctx.Err()
		return ctx.Err()
	}
	c := call(t, &fakeIngester{
		push: func(ctx context.Context, _ *PushRequest) (*Pushed, error) { return nil, wait(ctx) },
		sel: func(ctx context.Context, _ *SelectRequest, _ func(*SeriesFrame) error) error {
			return wait(ctx)
		},
	})
	for _, do := range []func(context.Context) error{
		func(ctx context.Context) error { _, err := c.Push(ctx, &PushRequest{Body: []byte("b")}); return err },
		func(ctx context.Context) error {
			return c.Select(ctx, &SelectRequest{}, func(*SeriesFrame) error { return nil })
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-entered
			cancel()
		}()
		require.ErrorIs(t, do(ctx), context.Canceled)
		require.ErrorIs(t, <-left, context.Canceled)

		ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
		require.ErrorIs(t, do(ctx), context.DeadlineExceeded)
		cancel()
		<-entered
		<-left
	}
}

// Whoever receives slowly slows the sender down; whoever has enough stops it.
func TestIngesterSelectStreams(t *testing.T) {
	t.Parallel()
	var sent atomic.Int64
	left := make(chan error, 1)
	big := &SeriesFrame{Series: []SelectedSeries{{Labels: labels.FromStrings("a", "b"), Chunks: []SelectedChunk{{Encoding: 1, Data: make([]byte, 256<<10)}}}}}
	c := call(t, &fakeIngester{sel: func(_ context.Context, _ *SelectRequest, send func(*SeriesFrame) error) error {
		var err error
		for err == nil && sent.Load() < 1000 {
			if err = send(big); err == nil {
				sent.Add(1)
			}
		}
		left <- err
		return err
	}})
	enough := errors.New("enough")
	received := 0
	err := c.Select(t.Context(), &SelectRequest{}, func(f *SeriesFrame) error {
		sameFrame(t, big, f)
		if received++; received < 5 {
			return nil
		}
		// The sender comes to a stop, far from its end.
		require.Never(t, func() bool { return sent.Load() > 200 }, 300*time.Millisecond, 5*time.Millisecond)
		return enough
	})
	require.Equal(t, enough, err)
	require.Error(t, <-left)
	require.Equal(t, 5, received)
}

// Health checks are in protobuf, over the same codec.
func TestHealthOverCodec(t *testing.T) {
	t.Parallel()
	conn := connect(t, &fakeIngester{})
	for _, opts := range [][]grpc.CallOption{nil, {grpc.ForceCodecV2(Codec{})}} {
		res, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}, opts...)
		require.NoError(t, err)
		require.Equal(t, healthpb.HealthCheckResponse_SERVING, res.GetStatus())
	}
}

// Interceptors see requests and errors as they are.
func TestIngesterIntercepted(t *testing.T) {
	t.Parallel()
	var methods []string
	c := call(t, &fakeIngester{held: func(_ context.Context, r *HeldRequest) (*HeldResponse, error) {
		return &HeldResponse{[]string{r.Tenant}}, nil
	}},
		grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			methods = append(methods, info.FullMethod)
			req.(*HeldRequest).Tenant += "!"
			return handle(ctx, req)
		}))
	res, err := c.Held(t.Context(), &HeldRequest{Span{Tenant: "t"}})
	require.NoError(t, err)
	require.Equal(t, []string{"t!"}, res.Blocks)
	require.Equal(t, []string{"/hearth.Ingester/Held"}, methods)
}

func TestMatchersRoundTrip(t *testing.T) {
	t.Parallel()
	var ms []*labels.Matcher
	for _, typ := range []labels.MatchType{labels.MatchEqual, labels.MatchNotEqual, labels.MatchRegexp, labels.MatchNotRegexp} {
		ms = append(ms, labels.MustNewMatcher(typ, "ü", "a|b"))
	}
	got, err := FromMatchers(ToMatchers(ms))
	require.NoError(t, err)
	for i := range ms {
		require.Equal(t, ms[i].String(), got[i].String())
	}
	_, err = FromMatchers([]Matcher{{labels.MatchRegexp, "a", "("}})
	require.ErrorContains(t, err, "matcher a")
}
