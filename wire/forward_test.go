package wire

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"
)

// sifted is a walk whose check refuses, shortens and leaves out labels at
// random, as validation does.
type sifted struct {
	Request
	refused, shortened bool
	kept               []int // of the series in the body
}

// sift walks body. Of the three things that check may do, it does those that
// are asked for, and not to every series.
func sift(rnd *rand.Rand, body []byte, v Version, refuse, shorten bool, without string) (*sifted, error) {
	s := &sifted{}
	n := -1
	err := s.Walk(body, v, "tenant", func(series *Series, ls []Label) bool {
		n++
		// Labels that are one twice, or too long, never get past validation.
		twice := func(a, b Label) bool { return a.Name == b.Name }
		if refuse && (rnd.IntN(4) == 0 || len(slices.CompactFunc(slices.Clone(ls), twice)) < len(ls)) {
			s.refused = true
			return false
		}
		if without != "" {
			s.LeaveOut(series, without)
		}
		if shorten && rnd.IntN(3) == 0 {
			s.shortened = s.shorten(rnd, series) || s.shortened
		}
		s.kept = append(s.kept, n)
		return true
	})
	return s, err
}

// shorten takes something out of the last series, if it has anything.
func (s *sifted) shorten(rnd *rand.Rand, last *Series) bool {
	switch {
	case last.Samples.Len() > 0:
		at := int(last.Samples.Lo) + rnd.IntN(last.Samples.Len())
		s.Samples = slices.Delete(s.Samples, at, at+1)
		last.Samples.Hi--
	case last.Exemplars.Len() > 0:
		at := int(last.Exemplars.Lo) + rnd.IntN(last.Exemplars.Len())
		s.Exemplars = slices.Delete(s.Exemplars, at, at+1)
		last.Exemplars.Hi--
	case last.Histograms.Len() > 0:
		s.Histograms = s.Histograms[:len(s.Histograms)-1]
		last.Histograms.Hi--
	default:
		return false
	}
	return true
}

// forward encodes some series and walks them as who receives them does.
func forward(t *testing.T, s *sifted, items []int) *Request {
	t.Helper()
	buf, v, err := s.AppendPart([]byte("before"), items)
	require.NoError(t, err)
	require.Equal(t, "before", string(buf[:6]))
	buf = slices.Clip(slices.Clone(buf[6:]))
	got := new(Request)
	require.NoError(t, got.Walk(buf, v, "tenant", func(series *Series, _ []Label) bool {
		if s.Without() != "" {
			got.LeaveOut(series, s.Without())
		}
		return true
	}))
	return got
}

// checkForward compares what is received with what was to be sent.
func checkForward(t *testing.T, s *sifted, items []int) {
	t.Helper()
	got, all := forward(t, s, items), seriesOf(told(&s.Request))
	require.Len(t, got.Series, len(items))
	want := []string{}
	for n, i := range items {
		want = append(want, all[i])
		have, sent := got.Series[n], s.Series[i]
		if have.Key != sent.Key || got.Hash(n) != s.Hash(i) {
			t.Fatalf("sent %x %x, received %x %x: %s", sent.Key, s.Hash(i), have.Key, got.Hash(n), all[i])
		}
		// What was left out may be the part that is not UTF-8.
		if s.without == "" && have.ValidUTF8 != sent.ValidUTF8 {
			t.Fatalf("sent UTF-8 %v, received %v: %s", sent.ValidUTF8, have.ValidUTF8, all[i])
		}
	}
	require.Equal(t, want, seriesOf(told(got)))

	part := s.Part(items)
	require.Equal(t, want, seriesOf(told(part)), "the part that shares memory")
	for n, i := range items {
		if s.Series[i].Key != part.Series[n].Key {
			t.Fatalf("the part that shares memory has another key: %s", all[i])
		}
	}
}

// metadataOf is each metadata once, sorted.
func metadataOf(r *Request) []string {
	var out []string
	for _, m := range r.Metadata {
		out = append(out, fmt.Sprintf("%q", m))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// checkMetadata compares the metadata that is received. That of 2.0 is in the
// series, where these are copied.
func checkMetadata(t *testing.T, s *sifted, body []byte, items []int) {
	t.Helper()
	want := &s.Request
	if !s.Altered && s.Version == V2 {
		sent := map[int]bool{} // series of the body
		for _, i := range items {
			sent[s.kept[i]] = true
		}
		n := -1
		want = new(Request)
		require.NoError(t, want.Walk(body, V2, "tenant", func(series *Series, _ []Label) bool {
			n++
			if s.without != "" {
				want.LeaveOut(series, s.without)
			}
			return sent[n]
		}))
	}
	require.Equal(t, metadataOf(want), metadataOf(forward(t, s, items)))
}

// checkForwards sifts a body in every way, and sends all, none and some of it
// on, in order and not. It returns false if the body is refused.
func checkForwards(t *testing.T, rnd *rand.Rand, body []byte, v Version) bool {
	t.Helper()
	body = slices.Clip(slices.Clone(body))
	for way := range 8 {
		without := ""
		if way&4 != 0 {
			without = []string{"a", "job", "__name__"}[rnd.IntN(3)]
		}
		s, err := sift(rnd, body, v, way&1 != 0, way&2 != 0, without)
		if err != nil {
			return false
		}
		require.Equal(t, !s.refused && !s.shortened, s.Whole())
		require.Equal(t, s.shortened, s.Altered)
		require.Equal(t, len(body), s.BodySize())
		all := make([]int, len(s.Series))
		for i := range all {
			all[i] = i
		}
		some := slices.DeleteFunc(slices.Clone(all), func(int) bool { return rnd.IntN(2) == 0 })
		mixed := slices.Clone(all)
		rnd.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
		for _, items := range [][]int{all, nil, some, mixed} {
			checkForward(t, s, items)
			checkMetadata(t, s, body, items)
		}
	}
	return true
}

// What an ingester reads of the series sent on to it is what the sender wrote,
// but for what was refused, shortened or left out.
func TestForward(t *testing.T) {
	t.Parallel()
	rnd := seeded(t)
	for v, bodies := range map[Version]map[string][]byte{V1: trickyV1(), V2: trickyV2()} {
		for name, body := range bodies {
			require.True(t, checkForwards(t, rnd, body, v), name)
		}
	}
	require.True(t, checkForwards(t, rnd, bodyV1(t), V1))
	require.True(t, checkForwards(t, rnd, bodyV2(t), V2))
}

func TestForwardRandomMessages(t *testing.T) {
	t.Parallel()
	rnd := seeded(t)
	sent := map[Version]int{}
	send := func(body []byte, v Version) {
		if checkForwards(t, rnd, body, v) {
			sent[v]++
		}
	}
	for range 500 {
		send(randomMessage(rnd, &v1Request, v1Nested), V1)
		send(append(symbols("__name__", "up", "a", "b", "\xff", ""), randomMessage(rnd, &v2Request, v2Nested)...), V2)
	}
	require.Greater(t, sent[V1], 100)
	require.Greater(t, sent[V2], 100)
}

func FuzzForward(f *testing.F) {
	for v, bodies := range map[Version]map[string][]byte{V1: trickyV1(), V2: trickyV2()} {
		for _, body := range bodies {
			f.Add(body, uint8(v), uint64(1))
		}
	}
	f.Fuzz(func(t *testing.T, body []byte, v uint8, seed uint64) {
		checkForwards(t, rand.New(rand.NewPCG(seed, 0)), body, Version(v))
	})
}

// The bytes of a request can be sent on as they are only if what is stored is
// what they say.
func TestWhole(t *testing.T) {
	t.Parallel()
	body := msg(sub(1, label("a", "1"), sub(2, varint(2, 1))), sub(1, label("a", "2"), sub(2, varint(2, 1))))
	last := func(s *Series) bool { return s.lo > 5 }
	for name, c := range map[string]struct {
		check func(r *Request, s *Series) bool
		whole bool
	}{
		"all":        {func(*Request, *Series) bool { return true }, true},
		"left out":   {func(r *Request, s *Series) bool { r.LeaveOut(s, "a"); return true }, true},
		"none":       {func(*Request, *Series) bool { return false }, false},
		"first only": {func(_ *Request, s *Series) bool { return !last(s) }, false},
		"last only":  {func(_ *Request, s *Series) bool { return last(s) }, false},
		"shortened":  {func(r *Request, s *Series) bool { s.Samples.Hi--; r.Samples = r.Samples[:s.Samples.Hi]; return true }, false},
		"changed":    {func(r *Request, _ *Series) bool { r.Altered = true; return true }, false},
	} {
		var r Request
		require.NoError(t, r.Walk(body, V1, "tenant", func(s *Series, _ []Label) bool { return c.check(&r, s) }), name)
		require.Equal(t, c.whole, r.Whole(), name)
		require.NoError(t, r.Walk(body, V1, "tenant", accept), name)
		require.True(t, r.Whole(), "%s: the next request is another", name)
	}
	var r Request
	require.NoError(t, r.Walk(body, V1, "tenant", accept))
	require.Equal(t, append([]byte("x"), body...), r.AppendBody([]byte("x")))
}

// A request of nothing but metadata can be sent on, too.
func TestForwardMetadataAlone(t *testing.T) {
	t.Parallel()
	var r Request
	require.NoError(t, r.Walk(sub(3, varint(1, 2), str(2, "up"), str(4, "help"), str(5, "unit")), V1, "tenant", accept))
	for _, r.Altered = range []bool{false, true} {
		got := forward(t, &sifted{Request: r}, nil)
		require.Equal(t, []Metadata{{Type: model.MetricTypeGauge, Family: "up", Help: "help", Unit: "unit"}}, got.Metadata)
	}
}

func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}
