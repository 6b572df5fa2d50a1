package wire

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/mem"
)

// received is what a message is on the other side, and whether the memory that
// it came in was given back.
func received[T framed](t testing.TB, data []byte, m T) (freed int, err error) {
	t.Helper()
	err = m.unmarshal(data, func() { freed++ })
	return freed, err
}

func TestPushRequestRoundTrip(t *testing.T) {
	t.Parallel()
	for _, p := range []PushRequest{
		{},
		{Tenant: "t", Version: V1, Body: []byte("body")},
		{Tenant: strings.Repeat("ü", 75), Version: V2, Snappy: true, Without: "__replica__", Body: bytes.Repeat([]byte{0xff}, 1<<20)},
		{Version: 255, Body: []byte{}},
	} {
		data := p.marshal().Materialize()
		var got PushRequest
		freed, err := received(t, msg(unknown, data, unknown), &got)
		require.NoError(t, err)
		require.Zero(t, freed)
		require.Equal(t, p.Tenant, got.Tenant)
		require.Equal(t, p.Version, got.Version)
		require.Equal(t, p.Snappy, got.Snappy)
		require.Equal(t, p.Without, got.Without)
		require.True(t, bytes.Equal(p.Body, got.Body))
		got.Release()
		require.Empty(t, got.Body)
		got.Release()
	}
}

func TestPushRequestGivesItsMemoryBackOnce(t *testing.T) {
	t.Parallel()
	var p PushRequest
	freed := 0
	require.NoError(t, p.unmarshal(str(15, "body"), func() { freed++ }))
	p.Release()
	p.Release()
	require.Equal(t, 1, freed)
	freed, err := received(t, raw(15<<3|2, 9, 1), &p)
	require.Error(t, err)
	require.Equal(t, 1, freed, "also where it is none")
	p.Release()
	require.Equal(t, 1, freed)
}

// chunkOf is a chunk of each encoding there is.
func chunkOf(t testing.TB, e chunkenc.Encoding) SelectedChunk {
	t.Helper()
	c, err := chunkenc.NewEmptyChunk(e)
	require.NoError(t, err)
	app, err := c.Appender()
	require.NoError(t, err)
	switch e {
	case chunkenc.EncHistogram, chunkenc.EncHistogramST:
		_, _, _, err = app.AppendHistogram(nil, 0, 5, intHistogram, false)
	case chunkenc.EncFloatHistogram, chunkenc.EncFloatHistogramST:
		_, _, _, err = app.AppendFloatHistogram(nil, 0, 5, floatHistogram, false)
	default:
		app.Append(0, 5, 1)
	}
	require.NoError(t, err)
	return SelectedChunk{MinT: 5, MaxT: 5, Encoding: e, Data: c.Bytes()}
}

func frames(t testing.TB) map[string]*SeriesFrame {
	t.Helper()
	all := &SeriesFrame{}
	for _, e := range []chunkenc.Encoding{
		chunkenc.EncXOR, chunkenc.EncXOR2, chunkenc.EncHistogram, chunkenc.EncFloatHistogram, chunkenc.EncHistogramST, chunkenc.EncFloatHistogramST,
	} {
		all.Series = append(all.Series, SelectedSeries{Labels: labels.FromStrings("e", e.String()), Chunks: []SelectedChunk{chunkOf(t, e), chunkOf(t, chunkenc.EncXOR)}})
	}
	many := &SeriesFrame{}
	for i := range 3000 {
		ls := labels.FromStrings("__name__", "m", "i", fmt.Sprint(i), "long", strings.Repeat("x", i))
		many.Series = append(many.Series, SelectedSeries{Labels: ls, Chunks: slices.Repeat([]SelectedChunk{chunkOf(t, chunkenc.EncXOR)}, i%4)})
	}
	x := chunkOf(t, chunkenc.EncXOR)
	x.MinT, x.MaxT = math.MinInt64, math.MaxInt64
	return map[string]*SeriesFrame{
		"nothing":     {},
		"no labels":   {Series: []SelectedSeries{{}, {Chunks: []SelectedChunk{x}}}},
		"UTF-8":       {Series: []SelectedSeries{{Labels: labels.FromStrings("näme", "välue", "日", "本", "e", "")}}},
		"a large one": {Series: []SelectedSeries{{Labels: labels.FromStrings("a", "b"), Chunks: []SelectedChunk{{Encoding: 1, Data: make([]byte, 1<<20)}}}}},
		"all":         all,
		"many":        many,
	}
}

func TestSeriesFrameRoundTrip(t *testing.T) {
	t.Parallel()
	for name, f := range frames(t) {
		data := f.marshal().Materialize()
		require.Equal(t, len(data), cap(data), "%s: the size is known before", name)
		got := &SeriesFrame{Series: make([]SelectedSeries, 3)}
		freed, err := received(t, data, got)
		require.NoError(t, err, name)
		require.Equal(t, 1, freed, name)
		clear(data) // as its next user does
		sameFrame(t, f, got)

		// What others put in, of which we do not know, is passed over.
		var strange []byte
		for _, s := range f.Series {
			var one SelectedSeries
			one.Chunks = s.Chunks
			strange = msg(strange, unknown, sub(1, unknown, s.append(nil), unknown))
		}
		_, err = received(t, strange, got)
		require.NoError(t, err, name)
		sameFrame(t, f, got)
	}
}

func sameFrame(t *testing.T, want, got *SeriesFrame) {
	t.Helper()
	require.Len(t, got.Series, len(want.Series))
	for i, s := range want.Series {
		if !labels.Equal(s.Labels, got.Series[i].Labels) || !slices.EqualFunc(s.Chunks, got.Series[i].Chunks, sameChunk) {
			t.Fatalf("sent %v, received %v", s, got.Series[i])
		}
	}
}

func sameChunk(a, b SelectedChunk) bool {
	return a.MinT == b.MinT && a.MaxT == b.MaxT && a.Encoding == b.Encoding && bytes.Equal(a.Data, b.Data)
}

func TestSeriesFrameDetach(t *testing.T) {
	t.Parallel()
	f := frames(t)["all"]
	want := f.marshal().Materialize()
	lent := f.Series[0].Chunks[0].Data
	require.Same(t, f, f.Detach())
	clear(lent)
	require.Equal(t, want, f.marshal().Materialize())
}

// What is no message is an error, and none of it makes a reader of it panic.
func TestFramesRefuse(t *testing.T) {
	t.Parallel()
	chunk := func(fields ...[]byte) []byte { return sub(1, str(1, "a"), str(1, "b"), sub(2, fields...)) }
	data := str(4, "12345")
	for name, body := range map[string][]byte{
		"a tag":                         raw(0x80),
		"a series that ends early":      raw(1<<3|2, 9, 1),
		"a label that ends early":       sub(1, raw(1<<3|2, 9, 1)),
		"a label without value":         sub(1, str(1, "a"), str(1, "b"), str(1, "c")),
		"a chunk that ends early":       sub(1, raw(2<<3|2, 9, 1)),
		"a chunk of nothing":            chunk(),
		"a chunk without data":          chunk(varint(3, 1)),
		"a chunk of less than a header": chunk(varint(3, 1), str(4, "123")),
		"an encoding of nine bits":      chunk(varint(3, 257), data),
		"a time that ends early":        chunk(data, raw(1<<3, 0x80)),
		"the second series":             msg(chunk(data), raw(1<<3|2, 9)),
	} {
		f := new(SeriesFrame)
		freed, err := received(t, body, f)
		require.Error(t, err, name)
		require.Equal(t, 1, freed, name)
	}
	_, err := received(t, chunk(varint(3, 1), data), new(SeriesFrame))
	require.NoError(t, err)
	p := PushRequest{Tenant: "tenant", Version: V1, Without: "x", Body: []byte("01234567890123456789")}
	all := p.marshal().Materialize()
	for n := range all {
		freed, err := received(t, slices.Clip(slices.Clone(all[:n])), &p)
		if err != nil {
			require.Equal(t, 1, freed)
		}
	}
}

func FuzzSeriesFrame(f *testing.F) {
	for _, frame := range frames(f) {
		if data := frame.marshal().Materialize(); len(data) < 10_000 {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var frame SeriesFrame
		freed, err := received(t, slices.Clip(slices.Clone(data)), &frame)
		require.Equal(t, 1, freed)
		if err != nil {
			return
		}
		for _, s := range frame.Series {
			for _, c := range s.Chunks {
				chunk, err := chunkenc.FromData(c.Encoding, c.Data)
				if err != nil {
					continue
				}
				require.GreaterOrEqual(t, chunk.NumSamples(), 0)
				_ = chunk.Iterator(nil) // looks at the header
			}
		}
		var again SeriesFrame
		_, err = received(t, frame.marshal().Materialize(), &again)
		require.NoError(t, err)
		sameFrame(t, &frame, &again)
	})
}

func FuzzPushRequest(f *testing.F) {
	p := PushRequest{Tenant: "t", Version: V2, Snappy: true, Without: "w", Body: []byte("body")}
	f.Add(p.marshal().Materialize())
	f.Add(unknown)
	f.Fuzz(func(t *testing.T, data []byte) {
		var p, again PushRequest
		freed, err := received(t, slices.Clip(slices.Clone(data)), &p)
		if err != nil {
			require.Equal(t, 1, freed)
			return
		}
		require.Zero(t, freed)
		_, err = received(t, p.marshal().Materialize(), &again)
		require.NoError(t, err)
		p.free, again.free = nil, nil
		if len(p.Body) == 0 {
			p.Body, again.Body = nil, nil
		}
		require.Equal(t, p, again)
	})
}

// The codec lends a push its memory until it is released, and takes it back
// at once from everything else.
func TestCodecMemory(t *testing.T) {
	t.Parallel()
	p := &PushRequest{Tenant: "t", Version: V1, Body: bytes.Repeat([]byte("x"), 100_000)}
	out, err := Codec{}.Marshal(p)
	require.NoError(t, err)
	pool := &countingPool{}
	lent := func() mem.BufferSlice {
		buf := pool.Get(out.Len())
		out.CopyTo(*buf)
		return mem.BufferSlice{mem.NewBuffer(buf, pool)}
	}
	data, got := lent(), new(PushRequest)
	require.NoError(t, Codec{}.Unmarshal(data, got))
	data.Free() // as grpc does
	require.Equal(t, 1, pool.out, "in use")
	require.Equal(t, p.Body, got.Body)
	got.Release()
	require.Zero(t, pool.out)

	out = mem.BufferSlice{mem.SliceBuffer(raw(15<<3|2, 0xff, 0xff, 1)), mem.SliceBuffer(make([]byte, 10_000))}
	data = lent()
	require.Error(t, Codec{}.Unmarshal(data, got))
	data.Free()
	require.Zero(t, pool.out)

	frame := frames(t)["all"]
	out, err = Codec{}.Marshal(frame)
	require.NoError(t, err)
	data = lent()
	var have SeriesFrame
	require.NoError(t, Codec{}.Unmarshal(data, &have))
	data.Free()
	require.Zero(t, pool.out)
	sameFrame(t, frame, &have)

	_, err = Codec{}.Marshal(func() {})
	require.ErrorContains(t, err, "encode func()")
	require.ErrorContains(t, Codec{}.Unmarshal(mem.BufferSlice{mem.SliceBuffer("{")}, &HeldRequest{}), "decode *wire.HeldRequest")
}

// countingPool writes over what it is given back.
type countingPool struct{ out int }

func (p *countingPool) Get(n int) *[]byte {
	p.out++
	b := make([]byte, n, max(n, 4<<10)) // grpc does not give small ones back
	return &b
}

func (p *countingPool) Put(b *[]byte) {
	p.out--
	for i := range *b {
		(*b)[i] = 0xee
	}
}
