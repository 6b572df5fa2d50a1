package wire

import (
	"fmt"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/stretchr/testify/require"
)

// The same series has the same Key and Hash whichever way it comes.
func TestNamesAreTheSame(t *testing.T) {
	t.Parallel()
	var v1, v2 Request
	require.NoError(t, v1.Walk(benchV1(t), V1, "tenant", accept))
	require.NoError(t, v2.Walk(benchV2(t), V2, "tenant", accept))
	hashes := map[uint64]bool{}
	for i, ls := range benchLabels() {
		require.Equal(t, KeyOf("tenant", ls), v1.Series[i].Key)
		require.Equal(t, KeyOf("tenant", ls), v2.Series[i].Key)
		require.Equal(t, HashOf("tenant", ls), v1.Hash(i))
		require.Equal(t, HashOf("tenant", ls), v2.Hash(i))
		hashes[v1.Hash(i)] = true
	}
	require.Len(t, hashes, benchSeries)
}

// Lengths around those at which the frame of a label changes.
func TestNamesAtFrameSizes(t *testing.T) {
	t.Parallel()
	text := func(n int) string { return fmt.Sprintf("%0*d", n, 7) }
	for _, n := range []int{1, 2, 62, 119, 120, 121, 122, 123, 126, 127, 128, 129, 16_382, 16_383, 16_384} {
		for _, m := range []int{1, 2, 62, 127, 128} {
			ls := labels.FromStrings(text(m), text(n))
			req := prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{Labels: prompb.FromLabels(ls, nil)}}}
			body, err := req.Marshal()
			require.NoError(t, err)
			var r Request
			require.NoError(t, r.Walk(body, V1, "tenant", accept))
			require.Equal(t, KeyOf("tenant", ls), r.Series[0].Key, "%d %d", n, m)
			require.True(t, r.labels.plain, "%d %d: was copied", n, m)

			symbols := writev2.NewSymbolTable()
			req2 := writev2.Request{Timeseries: []writev2.TimeSeries{{LabelsRefs: symbols.SymbolizeLabels(ls, nil)}}}
			req2.Symbols = symbols.Symbols()
			body, err = req2.Marshal()
			require.NoError(t, err)
			require.NoError(t, r.Walk(body, V2, "tenant", accept))
			require.Equal(t, KeyOf("tenant", ls), r.Series[0].Key, "%d %d", n, m)
			require.Equal(t, HashOf("tenant", ls), r.Hash(0), "%d %d", n, m)
		}
	}
}

// What is next to one another must not run into one another.
func TestNamesDiffer(t *testing.T) {
	t.Parallel()
	keys, hashes := map[Key]string{}, map[uint64]string{}
	for _, tenant := range []string{"", "a", "ab", "b"} {
		for _, ls := range []labels.Labels{
			labels.EmptyLabels(),
			labels.FromStrings("a", "b"), labels.FromStrings("ab", "c"), labels.FromStrings("a", "bc"),
			labels.FromStrings("a", "b", "c", "d"), labels.FromStrings("a", "bc\x12\x01d"), labels.FromStrings("a", "b\n\x06\n\x01c\x12\x01d"),
			labels.FromStrings("b", "a"), labels.FromStrings("a", "b\x00"), labels.FromStrings("a\x00", "b"),
		} {
			who := tenant + ls.String()
			k, h := KeyOf(tenant, ls), HashOf(tenant, ls)
			require.Empty(t, keys[k], who)
			require.Empty(t, hashes[h], who)
			keys[k], hashes[h] = who, who
			require.NotEqual(t, k[0], k[1])
		}
	}
}

// Replicas of other versions place series by these numbers: they never change.
func TestHashIsStable(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		tenant string
		ls     labels.Labels
		want   uint64
	}{
		{"", labels.EmptyLabels(), 0x8083bf29ee6fafc1},
		{"demo", labels.FromStrings("__name__", "up"), 0xd270c5c6d17e92bc},
		{"demo", labels.FromStrings("__name__", "up", "instance", "localhost:9090", "job", "prometheus"), 0x3f4ca38b120b9324},
		{"other", labels.FromStrings("__name__", "up", "instance", "localhost:9090", "job", "prometheus"), 0x3204263848179746},
	} {
		require.Equal(t, fmt.Sprintf("%#x", c.want), fmt.Sprintf("%#x", HashOf(c.tenant, c.ls)), "%s %s", c.tenant, c.ls)
	}
	require.Equal(t, uint32(0x01234567), Token(0x0123456789abcdef))
}

// Tokens of few series that differ little still fall everywhere in the ring.
func TestTokensSpread(t *testing.T) {
	t.Parallel()
	const parts, each = 16, 500
	var counts [parts]int
	for i := range parts * each {
		counts[Token(HashOf("demo", labels.FromStrings("__name__", "up", "i", fmt.Sprint(i))))/(1<<32/parts)]++
	}
	for _, n := range counts {
		require.InDelta(t, each, n, 100)
	}
}
