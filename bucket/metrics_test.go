package bucket

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
)

// TestRequestsToS3 has a component do each operation in a real S3 server, and
// compares what leaves with what is counted as its own.
func TestRequestsToS3(t *testing.T) {
	t.Parallel()
	m := newMetrics(prometheus.NewRegistry())
	bounds := defaultS3Bounds()
	bounds.page, bounds.part = 10, 5<<20 // S3 has no smaller parts
	s, err := newS3(s3Config(t), bounds, slog.New(slog.DiscardHandler), m)
	require.NoError(t, err)
	defer func() { require.NoError(t, s.Close()) }()
	all := &observed{s, m, "all"}
	put := func(b Bucket, key Key, content string, cond Condition) string {
		etag, err := b.Put(t.Context(), key, strings.NewReader(content), int64(len(content)), cond)
		require.NoError(t, err)
		return etag
	}
	requests := func(component, operation string) int {
		return int(testutil.ToFloat64(m.requests.WithLabelValues(component, operation)))
	}

	b := For(all, "one")
	etag := put(b, "a", "some", Condition{IfAbsent: true})
	put(b, "a", "other", Condition{IfMatch: etag})
	require.Equal(t, 2, requests("one", opPut))
	_, _, err = ReadAll(t.Context(), b, "a")
	require.NoError(t, err)
	require.Equal(t, 1, requests("one", opGet))
	r, err := b.GetRange(t.Context(), "a", 1, 2)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	require.Equal(t, 1, requests("one", opGetRange))
	_, err = b.Stat(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, 1, requests("one", opStat))
	require.NoError(t, b.Delete(t.Context(), "a"))
	require.Equal(t, 1, requests("one", opDelete))

	two := For(b, "two") // in other hands it is not the first one's any more
	for n := range 25 {
		put(two, Key(fmt.Sprintf("many/%02d", n)), "", Condition{})
	}
	for _, err := range two.List(t.Context(), "many/", false) {
		require.NoError(t, err)
	}
	require.Equal(t, 3, requests("two", opList), "a request for each page of ten")
	put(two, "large", strings.Repeat("x", 12<<20), Condition{})
	require.Equal(t, 25+1+3+1, requests("two", opPut), "to begin, for each part of five MiB, to end")
	require.Equal(t, 1, requests("one", opList)+requests("one", opGet)+requests("all", opPut))
}
