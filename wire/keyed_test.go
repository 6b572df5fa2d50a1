package wire

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// keyedOf walks a request of n series with 0 to 3 samples each.
func keyedOf(t testing.TB, n int, change func(*prompb.WriteRequest)) *Request {
	t.Helper()
	rnd := rand.New(rand.NewPCG(1, uint64(n)))
	values := []float64{0, 1, -1.5, math.Inf(-1), math.MaxFloat64, math.Float64frombits(value.StaleNaN)}
	times := []int64{0, 1, -1, 1_700_000_000_000, 1_700_000_000_001, math.MaxInt64, math.MinInt64}
	var req prompb.WriteRequest
	for i := range n {
		ts := prompb.TimeSeries{Labels: prompb.FromLabels(labels.FromStrings("__name__", "m", "i", fmt.Sprint(i)), nil)}
		for range rnd.IntN(4) {
			ts.Samples = append(ts.Samples, prompb.Sample{Timestamp: times[rnd.IntN(len(times))], Value: values[rnd.IntN(len(values))]})
		}
		req.Timeseries = append(req.Timeseries, ts)
	}
	if change != nil {
		change(&req)
	}
	body, err := req.Marshal()
	require.NoError(t, err)
	r := new(Request)
	require.NoError(t, r.Walk(body, V1, "t", accept))
	return r
}

// samplesByKey is a request without what only labels can say.
func samplesByKey(r *Request) (out []string) {
	for _, s := range r.Series {
		line := fmt.Sprintf("%x", s.Key)
		for _, x := range r.Samples[s.Samples.Lo:s.Samples.Hi] {
			line += fmt.Sprintf(" %d:%x", x.T, math.Float64bits(x.V))
		}
		out = append(out, line)
	}
	return out
}

func TestKeyedRoundTrip(t *testing.T) {
	t.Parallel()
	var got Request
	for _, n := range []int{1, 2, 500} {
		r := keyedOf(t, n, nil)
		all := samplesByKey(r)
		items := []int{n - 1, 0}
		for _, c := range []struct {
			items []int
			want  []string
		}{{nil, all}, {items, []string{all[n-1], all[0]}}} {
			sent := r.Keyed("t ü", c.items)
			var p KeyedRequest
			freed, err := received(t, msg(unknown, sent.marshal().Materialize(), unknown), &p)
			require.NoError(t, err)
			require.Zero(t, freed)
			require.Equal(t, "t ü", p.Tenant)
			require.Equal(t, SecretID(), p.Secret)
			require.NoError(t, got.ReadKeyed(p.Body))
			require.True(t, got.OnlyKeys)
			require.Equal(t, c.want, samplesByKey(&got))
			require.Len(t, got.Samples, sent.Samples)
			p.Release()
			p.Release()
			require.Nil(t, p.Body)
		}
	}
	got.Reset()
	require.False(t, got.OnlyKeys)
}

// What keys and floats cannot say goes with labels.
func TestKeyedIsForFloatsOnly(t *testing.T) {
	t.Parallel()
	require.NotNil(t, keyedOf(t, 3, nil).Keyed("t", nil))
	for name, change := range map[string]func(*prompb.WriteRequest){
		"histogram": func(r *prompb.WriteRequest) { r.Timeseries[1].Histograms = []prompb.Histogram{{Timestamp: 1}} },
		"exemplar":  func(r *prompb.WriteRequest) { r.Timeseries[1].Exemplars = []prompb.Exemplar{{Timestamp: 1}} },
		"metadata":  func(r *prompb.WriteRequest) { r.Metadata = []prompb.MetricMetadata{{MetricFamilyName: "m"}} },
		"nothing":   func(r *prompb.WriteRequest) { r.Timeseries = nil },
	} {
		require.Nil(t, keyedOf(t, 3, change).Keyed("t", nil), name)
	}
	r := keyedOf(t, 3, nil)
	r.Unasked = Keys
	require.Nil(t, r.Keyed("t", nil))
}

func TestKeyedThatIsNone(t *testing.T) {
	t.Parallel()
	r := keyedOf(t, 20, nil)
	body := r.Keyed("t", nil).Body
	whole := map[int]bool{}
	for n := range 20 {
		items := make([]int, n)
		for i := range items {
			items[i] = i
		}
		whole[len(r.Keyed("t", items).Body)] = true
	}
	for n := range body {
		err := new(Request).ReadKeyed(slices.Clip(slices.Clone(body[:n])))
		require.Equal(t, whole[n], err == nil, n)
	}
	require.Error(t, new(Request).ReadKeyed(append(make([]byte, 16), 0xff, 0xff, 0xff, 0xff, 0x0f)), "more samples than bytes")
	require.Error(t, new(Request).ReadKeyed(slices.Repeat([]byte{0xff}, 40)))
}

func FuzzReadKeyed(f *testing.F) {
	f.Add(keyedOf(f, 5, nil).Keyed("t", nil).Body)
	f.Fuzz(func(t *testing.T, body []byte) {
		var r, again Request
		if r.ReadKeyed(body) != nil {
			return
		}
		r.OnlyKeys = false
		if sent := r.Keyed("t", nil); sent != nil {
			require.NoError(t, again.ReadKeyed(sent.Body))
			require.Equal(t, samplesByKey(&r), samplesByKey(&again))
		}
	})
}

func TestKeyedAnswers(t *testing.T) {
	t.Parallel()
	for _, want := range []KeyedAnswer{{}, {Known: true, Series: 1 << 40}} {
		var got KeyedAnswer
		freed, err := received(t, msg(unknown, want.marshal().Materialize()), &got)
		require.NoError(t, err)
		require.Equal(t, 1, freed)
		require.Equal(t, want, got)
	}
	down := Errorf(Unavailable, "err-down", "down")
	c := call(t, &fakeIngester{keyed: func(_ context.Context, r *KeyedRequest) (*KeyedAnswer, error) {
		if r.Tenant == "down" {
			return nil, down
		}
		return &KeyedAnswer{Known: true, Series: len(r.Body)}, nil
	}})
	got, err := c.PushKeyed(t.Context(), &KeyedRequest{Tenant: "t", Body: make([]byte, 1<<20)})
	require.NoError(t, err)
	require.Equal(t, KeyedAnswer{Known: true, Series: 1 << 20}, *got)
	_, err = c.PushKeyed(t.Context(), &KeyedRequest{Tenant: "down"})
	require.Equal(t, down, err)
}

// A member of a version that knows no such message stores nothing of it.
func TestKeyedToAnOlderVersion(t *testing.T) {
	t.Parallel()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := grpc.NewServer(grpc.ForceServerCodecV2(Codec{}))
	s.RegisterService(&grpc.ServiceDesc{ServiceName: ingesterService, HandlerType: (*any)(nil)}, struct{}{})
	served := make(chan error, 1)
	go func() { served <- s.Serve(lis) }()
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, conn.Close())
		s.Stop()
		require.NoError(t, <-served)
	})
	got, err := NewIngesterClient(conn).PushKeyed(t.Context(), &KeyedRequest{Tenant: "t"})
	require.NoError(t, err)
	require.Equal(t, KeyedAnswer{}, *got)
}

// Another secret makes other keys, and has another name.
func TestSecrets(t *testing.T) { //nolint:paralleltest // it changes what all keys are made with
	before, id, key := secret.Load(), SecretID(), KeyOf("t", labels.FromStrings("a", "b"))
	defer secret.Store(before)
	setSecret(NewSecret())
	require.NotEqual(t, before.Secret, secret.Load().Secret)
	require.NotEqual(t, id, SecretID())
	require.NotEqual(t, key, KeyOf("t", labels.FromStrings("a", "b")))
	secret.Store(before)
	require.Equal(t, key, KeyOf("t", labels.FromStrings("a", "b")))
}
