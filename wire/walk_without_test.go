package wire

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/stretchr/testify/require"
)

// leavingOut is a check that takes every series, without a label.
func leavingOut(r *Request, name string) func(*Series, []Label) bool {
	return func(s *Series, _ []Label) bool {
		r.LeaveOut(s, name)
		return true
	}
}

// checkWithout compares a walk that leaves a label out with one that does not,
// series by series.
func checkWithout(t *testing.T, body []byte, v Version, name string) {
	t.Helper()
	body = slices.Clip(slices.Clone(body))
	var all, r Request
	require.NoError(t, all.Walk(body, v, "tenant", accept))
	var seen [][]Label
	require.NoError(t, r.Walk(body, v, "tenant", func(s *Series, ls []Label) bool {
		before := slices.Clone(ls)
		left := r.LeaveOut(s, name)
		require.Equal(t, slices.DeleteFunc(before, func(l Label) bool { return l.Name == name }), slices.Clone(left))
		require.Equal(t, left, r.LeaveOut(s, name), "twice is once")
		seen = append(seen, slices.Clone(left))
		return true
	}))
	require.Len(t, r.Series, len(all.Series))
	for i, s := range r.Series {
		ls := r.Labels(i, nil)
		require.True(t, slices.Equal(seen[i], ls), "check was left %q, Labels are %q", seen[i], ls)
		var b labels.ScratchBuilder
		for _, l := range ls {
			b.Add(l.Name, l.Value)
		}
		require.Equal(t, KeyOf("tenant", b.Labels()), s.Key, "%q", ls)
		require.Equal(t, HashOf("tenant", b.Labels()), r.Hash(i), "%q", ls)
		if len(ls) == len(all.Labels(i, nil)) {
			require.Equal(t, all.Series[i].Key, s.Key, "a series that has no such label is as it was")
		}
		require.Equal(t, all.Series[i].Samples, s.Samples)
	}
	require.True(t, r.Whole())
}

// A series of which a label is left out is the series that never had it,
// wherever the label stands and however the message is written.
func TestLeaveOut(t *testing.T) {
	t.Parallel()
	for v, bodies := range map[Version]map[string][]byte{
		V1: {"all": bodyV1(t), "bench": benchV1(t)}, V2: {"all": bodyV2(t), "bench": benchV2(t)},
	} {
		for name, body := range bodies {
			for _, label := range []string{"__name__", "cluster", "container", "service", "job", "instance", "none"} {
				t.Run(fmt.Sprintf("v%d %s %s", v, name, label), func(t *testing.T) {
					t.Parallel()
					checkWithout(t, body, v, label)
				})
			}
		}
	}
	for _, label := range []string{"__name__", "job", "a", "b", "", "\xff"} {
		for _, body := range trickyV1() {
			checkWithout(t, body, V1, label)
		}
		for _, body := range trickyV2() {
			checkWithout(t, body, V2, label)
		}
	}
}

func TestLeaveOutOfRandomMessages(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	compared := map[Version]int{}
	compare := func(body []byte, v Version, label string) {
		var r Request
		if r.Walk(body, v, "tenant", accept) == nil && len(r.Series) > 0 {
			checkWithout(t, body, v, label)
			compared[v]++
		}
	}
	for range 5000 {
		for _, label := range []string{"a", "b", "__name__"} {
			compare(randomMessage(rnd, &v1Request, v1Nested), V1, label)
			compare(append(symbols("__name__", "up", "a", "b", "\xff", ""), randomMessage(rnd, &v2Request, v2Nested)...), V2, label)
		}
	}
	require.Greater(t, compared[V1], 1000)
	require.Greater(t, compared[V2], 1000)
}

// Labels of which the one left out stands first, last, or alone, at the
// lengths at which frames change.
func TestLeaveOutAtFrameSizes(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 119, 120, 121, 122, 123, 127, 128, 16_384} {
		value := fmt.Sprintf("%0*d", n, 7)
		for _, body := range [][]byte{
			sub(1, label("m", value)),
			sub(1, label("a", value), label("m", "1")),
			sub(1, label("m", "1"), label("z", value)),
			sub(1, label("a", value), label("m", value), label("z", value)),
			sub(1, label("a", "1"), label("m", value), label("m", value), label("z", "1")),
		} {
			checkWithout(t, body, V1, "m")
		}
	}
}

// check may leave a label out of some series only, and refuse others; metadata
// of 2.0 goes by the name that is left.
func TestLeaveOutOfSome(t *testing.T) {
	t.Parallel()
	a, b := sub(1, label("a", "1"), label("r", "x")), sub(1, label("b", "1"), label("r", "x"))
	var r Request
	require.Empty(t, r.Without())
	require.NoError(t, r.Walk(msg(a, b, a, b), V1, "tenant", func(s *Series, ls []Label) bool {
		if ls[0].Name == "a" {
			r.LeaveOut(s, "r")
		}
		return len(r.Series) < 4
	}))
	var got []string
	for i := range r.Series {
		got = append(got, SeriesString(r.Labels(i, nil)))
	}
	require.Equal(t, []string{`{a="1"}`, `{b="1", r="x"}`, `{a="1"}`}, got)
	require.Equal(t, "r", r.Without())
	r.Altered = true
	require.Empty(t, r.Without(), "what Labels says is written, there is nothing to leave out")
	r.Reset()
	require.Empty(t, r.Without())
	require.NoError(t, r.Walk(a, V1, "tenant", accept))
	require.Len(t, r.Labels(0, nil), 2, "the next request has nothing left out")

	body := msg(symbols("__name__", "up", "r", "x", "help"), sub(5, sub(1, raw(1, 2, 3, 4)), sub(5, varint(1, 2), varint(3, 5))))
	require.NoError(t, r.Walk(body, V2, "tenant", leavingOut(&r, "r")))
	require.Equal(t, "up", r.Metadata[0].Family)
}

func TestLeaveOutTwoNames(t *testing.T) {
	t.Parallel()
	var r Request
	require.PanicsWithValue(t, "BUG: a request leaves out a and b", func() {
		_ = r.Walk(sub(1, label("a", "1"), label("b", "1")), V1, "tenant", func(s *Series, _ []Label) bool {
			r.LeaveOut(s, "a")
			r.LeaveOut(s, "b")
			return true
		})
	})
}

func TestLeaveOutAllocatesNothing(t *testing.T) {
	for v, body := range map[Version][]byte{V1: benchV1(t), V2: benchV2(t)} {
		var r Request
		var buf []Label
		check := leavingOut(&r, "cluster")
		walk := func() {
			if err := r.Walk(body, v, "tenant", check); err != nil {
				t.Fatal(err)
			}
			for i := range r.Series {
				buf = r.Labels(i, buf)
			}
			r.Reset()
		}
		walk()
		require.Zero(t, testing.AllocsPerRun(10, walk), "version %d", v)
	}
}
