package compactor

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/oklog/ulid/v2"

	"github.com/hearth-metrics/hearth/bucket"
)

// job is one compaction: blocks of one range of time, and what they become.
type job struct {
	home       bucket.Key
	minT, maxT int64 // ms, of the range; maxT is exclusive
	blocks     []bucket.IndexBlock

	// With split, the blocks' series are divided into parts. Otherwise all
	// blocks are that part of parts, and become one.
	split       bool
	part, parts int

	purge bool // a block alone, written again without what is not kept
}

// key names a job, the same in each process that plans it.
func (j *job) key() string {
	if j.purge {
		return purgeKey(j.home, j.blocks[0].ID)
	}
	return fmt.Sprintf("%s/%d-%d/%s/%t", j.home, j.minT, j.maxT, bucket.ShardID(j.part, j.parts), j.split)
}

func purgeKey(home bucket.Key, id ulid.ULID) string { return fmt.Sprintf("%s/purge/%s", home, id) }

// size is the bytes of the blocks.
func (j *job) size() (n int64) {
	for _, b := range j.blocks {
		n += b.Size
	}
	return n
}

// end is the end of what is made of the blocks, exclusive.
func (j *job) end() int64 {
	end := int64(math.MinInt64)
	for _, b := range j.blocks {
		end = max(end, b.MaxTime)
	}
	return end
}

// maxParts bounds into how many parts a home's series are split.
const maxParts = 256

// planner finds what is to be compacted in a home. Blocks belong to the ranges
// that they lie in whole; one that crosses the borders of all of them is left
// alone. Largest ranges come first: when a day is past, all that is in it
// becomes one at once, whatever was or was not merged before.
type planner struct {
	home    bucket.Key
	ranges  []int64 // ms
	wait    int64   // ms
	now     int64   // ms
	perPart uint64  // series; more are split
	purge   func(*bucket.IndexBlock) bool

	jobs []job
	next int64 // when the next range can be merged
}

// plan returns jobs, none of which has a block of another, and when there will
// be more to do (math.MaxInt64: not before there are new blocks).
func (p *planner) plan(blocks []bucket.IndexBlock) ([]job, int64) {
	p.jobs, p.next = nil, math.MaxInt64
	blocks = slices.Clone(blocks)
	slices.SortFunc(blocks, func(a, b bucket.IndexBlock) int {
		return cmp.Or(cmp.Compare(a.MinTime, b.MinTime), cmp.Compare(a.MaxTime, b.MaxTime), a.ID.Compare(b.ID))
	})
	for _, b := range p.descend(blocks, len(p.ranges)-1, 1) {
		if p.purge(&b) {
			p.rewrite(b)
		}
	}
	return p.jobs, p.next
}

// descend plans the ranges of a level and returns the blocks that lie in none.
func (p *planner) descend(blocks []bucket.IndexBlock, level, parts int) (rest []bucket.IndexBlock) {
	if level < 0 {
		return blocks
	}
	width := p.ranges[level]
	groups := map[int64][]bucket.IndexBlock{}
	var starts []int64
	for _, b := range blocks {
		start := floor(b.MinTime, width)
		if b.MaxTime > start+width {
			rest = append(rest, b)
			continue
		}
		if groups[start] == nil {
			starts = append(starts, start)
		}
		groups[start] = append(groups[start], b)
	}
	for _, start := range starts {
		p.planRange(start, level, groups[start], parts)
	}
	return rest
}

func (p *planner) planRange(start int64, level int, blocks []bucket.IndexBlock, parts int) {
	width := p.ranges[level]
	parts = max(parts, p.partsOf(blocks))
	if ready := start + width + max(p.wait, width/4); ready > p.now {
		if len(blocks) > 1 {
			p.next = min(p.next, ready)
		}
		if level > 0 {
			for _, b := range p.descend(blocks, level-1, 1) {
				if p.purge(&b) {
					p.rewrite(b)
				}
			}
		}
		return
	}
	if p.split(start, level, blocks, parts) {
		return
	}
	for part := range parts {
		var of []bucket.IndexBlock
		for _, b := range blocks {
			if i, _ := bucket.ParseShardID(b.CompactorShardID); i == part {
				of = append(of, b)
			}
		}
		switch {
		case len(of) > 1:
			p.jobs = append(p.jobs, job{home: p.home, minT: start, maxT: start + width, blocks: of, part: part, parts: parts})
		case len(of) == 1 && p.purge(&of[0]):
			p.rewrite(of[0])
		}
	}
}

// split plans the blocks that are not divided into parts, or not into so many,
// and says whether there are any. The smallest ranges do it, so that the work
// of a large tenant is in many jobs; merging waits until they are done.
func (p *planner) split(start int64, level int, blocks []bucket.IndexBlock, parts int) bool {
	var whole []bucket.IndexBlock
	for _, b := range blocks {
		if _, n := bucket.ParseShardID(b.CompactorShardID); n != parts {
			whole = append(whole, b)
		}
	}
	if len(whole) == 0 {
		return false
	}
	here := p.descend(whole, level-1, parts)
	if len(here) > 0 {
		p.jobs = append(p.jobs, job{home: p.home, minT: start, maxT: start + p.ranges[level], blocks: here, split: true, parts: parts})
	}
	return true
}

// rewrite plans a block alone.
func (p *planner) rewrite(b bucket.IndexBlock) {
	part, parts := bucket.ParseShardID(b.CompactorShardID)
	p.jobs = append(p.jobs, job{home: p.home, minT: b.MinTime, maxT: b.MaxTime, blocks: []bucket.IndexBlock{b}, part: part, parts: parts, purge: true})
}

// partsOf is a power of two that follows from the series of the fullest of the
// smallest ranges: never fewer than some block is divided into already.
// Replicas count, so it can be a few times more than is needed.
func (p *planner) partsOf(blocks []bucket.IndexBlock) int {
	series := map[int64]uint64{}
	parts, most := 1, uint64(0)
	for _, b := range blocks {
		_, n := bucket.ParseShardID(b.CompactorShardID)
		parts = max(parts, n)
		start := floor(b.MinTime, p.ranges[0])
		series[start] += b.Series
		most = max(most, series[start])
	}
	for parts < maxParts && uint64(parts)*p.perPart < most {
		parts *= 2
	}
	return parts
}

// floor is the last multiple of width that is not behind t, also before 1970.
func floor(t, width int64) int64 {
	f := t / width * width
	if f > t {
		f -= width
	}
	return f
}
