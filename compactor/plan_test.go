package compactor

import (
	"math"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
)

const hour = 3_600_000

// entry is a block of some hours.
func entry(n int, from, to int64, shard string, series uint64) bucket.IndexBlock {
	id := ulid.ULID{}
	id[15] = byte(n)
	return bucket.IndexBlock{ID: id, MinTime: from * hour, MaxTime: to * hour, CompactorShardID: shard, Series: series}
}

// TestPlan has what is planned for blocks 1, 2, 3 … as "numbers of blocks",
// split or part, and when there is more to do.
func TestPlan(t *testing.T) {
	t.Parallel()
	type want struct {
		blocks []int
		split  bool
		part   int
		parts  int
	}
	merge := func(blocks ...int) want { return want{blocks, false, 0, 1} }
	const never = math.MaxInt64 / hour
	for name, c := range map[string]struct {
		now    int64 // hours
		blocks []bucket.IndexBlock
		want   []want
		next   int64 // hours; never: not before there are new blocks
	}{
		"nothing": {now: 100, next: never},
		"one block is one already": {
			now: 100, next: never,
			blocks: []bucket.IndexBlock{entry(1, 0, 2, "", 1)},
		},
		"replicas of a range that is past": {
			now: 4, next: 15,
			blocks: []bucket.IndexBlock{entry(1, 0, 2, "", 1), entry(2, 0, 2, "", 1), entry(3, 1, 2, "", 1)},
			want:   []want{merge(1, 2, 3)},
		},
		"replicas of a range that is not": {
			now: 3, next: 4,
			blocks: []bucket.IndexBlock{entry(1, 0, 2, "", 1), entry(2, 0, 2, "", 1)},
		},
		"half a day that is past, in the middle of a day": {
			now: 15, next: 30,
			blocks: []bucket.IndexBlock{entry(1, 0, 2, "", 1), entry(2, 10, 12, "", 1), entry(3, 12, 14, "", 1)},
			want:   []want{merge(1, 2)},
		},
		"a day at once": {
			now: 30, next: never,
			blocks: []bucket.IndexBlock{entry(1, 0, 12, "", 1), entry(2, 12, 14, "", 1), entry(3, 22, 24, "", 1), entry(4, 24, 26, "", 1)},
			want:   []want{merge(1, 2, 3)},
		},
		"a replica that was cut once a day, before it is past": {
			now: 26, next: 30,
			blocks: []bucket.IndexBlock{entry(1, 2, 24, "", 1), entry(2, 2, 4, "", 1), entry(3, 2, 4, "", 1), entry(4, 12, 14, "", 1)},
			want:   []want{merge(2, 3)},
		},
		"a replica that was cut once a day": {
			now: 30, next: never,
			blocks: []bucket.IndexBlock{entry(1, 2, 24, "", 1), entry(2, 2, 4, "", 1), entry(3, 2, 4, "", 1), entry(4, 12, 14, "", 1)},
			want:   []want{merge(2, 3, 1, 4)},
		},
		"a late block into a day": {
			now: 100, next: never,
			blocks: []bucket.IndexBlock{entry(1, 0, 24, "", 1), entry(2, 3, 4, "", 1)},
			want:   []want{merge(1, 2)},
		},
		"blocks that cross borders are left alone": {
			now: 100, next: never,
			blocks: []bucket.IndexBlock{entry(1, 23, 25, "", 1), entry(2, 23, 25, "", 1), entry(3, 0, 72, "", 1)},
		},
		"before 1970": {
			now: 0, next: never,
			blocks: []bucket.IndexBlock{entry(1, -48, -46, "", 1), entry(2, -26, -24, "", 1), entry(3, -72, -71, "", 1)},
			want:   []want{merge(1, 2)},
		},
		"many series are split in the smallest ranges first": {
			now: 100, next: never,
			blocks: []bucket.IndexBlock{entry(1, 0, 2, "", 150), entry(2, 0, 2, "", 150), entry(3, 2, 4, "", 10)},
			want:   []want{{[]int{1, 2}, true, 0, 4}, {[]int{3}, true, 0, 4}},
		},
		"parts are merged with their like": {
			now: 100, next: never,
			blocks: []bucket.IndexBlock{entry(1, 0, 2, "1_of_2", 1), entry(2, 0, 2, "2_of_2", 1), entry(3, 2, 4, "2_of_2", 1)},
			want:   []want{{[]int{2, 3}, false, 1, 2}},
		},
		"what is split into fewer is split again before": {
			now: 100, next: never,
			blocks: []bucket.IndexBlock{entry(1, 0, 2, "1_of_2", 1), entry(2, 2, 4, "1_of_4", 1), entry(3, 4, 6, "1_of_4", 1)},
			want:   []want{{[]int{1}, true, 0, 4}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := &planner{ranges: []int64{2 * hour, 12 * hour, 24 * hour}, wait: 2 * hour, now: c.now * hour, perPart: 100, purge: func(*bucket.IndexBlock) bool { return false }}
			jobs, next := p.plan(c.blocks)
			var got []want
			for _, j := range jobs {
				w := want{nil, j.split, j.part, j.parts}
				for _, b := range j.blocks {
					w.blocks = append(w.blocks, int(b.ID[15]))
				}
				got = append(got, w)
			}
			require.ElementsMatch(t, c.want, got)
			require.Equal(t, c.next, next/hour)
		})
	}
}
