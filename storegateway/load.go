package storegateway

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"sync/atomic"

	"github.com/prometheus/prometheus/tsdb/chunks"
	"golang.org/x/sync/errgroup"
)

const (
	spansAtOnce = 8       // of one batch
	lentAtOnce  = 32      // pages of one batch
	sizeGuess   = 1 << 10 // bytes of a chunk whose size the index does not tell

	minSamples = 2 // bytes; every encoding begins with the number of samples
)

// errCorrupt is what was read and cannot be a chunk.
var errCorrupt = errors.New("corrupt chunk")

// budget counts the bytes of chunks that a query needs, against its limit.
type budget struct {
	used  atomic.Int64
	limit int64 // 0: none
}

func (b *budget) add(n int64) error {
	if used := b.used.Add(n); b.limit > 0 && used > b.limit {
		return errChunkBytes(b.limit)
	}
	return nil
}

// loader reads batches of chunks of one block.
type loader struct {
	pages    *pages
	segments []segment
	budget   *budget
	fail     func(error) error // words an error for the tenant
}

// span is some chunks of a segment that lie near one another.
type span struct {
	seg   *segment
	items []int    // which chunks of the batch, by rising offset
	want  []uint32 // the pages they are in, as far as is known
}

// load returns the encoding and samples of each chunk.
func (l *loader) load(ctx context.Context, cs []plannedChunk) ([][]byte, error) {
	spans, err := l.divide(cs)
	if err != nil {
		return nil, l.fail(err)
	}
	data := make([][]byte, len(cs))
	if len(spans) == 1 {
		err = l.readSpan(ctx, cs, spans[0], data)
	} else {
		g, gctx := errgroup.WithContext(ctx)
		g.SetLimit(spansAtOnce)
		for _, sp := range spans {
			g.Go(func() error { return l.readSpan(gctx, cs, sp, data) })
		}
		err = g.Wait()
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, l.fail(err)
	}
	return data, nil
}

// divide makes spans of a batch, each of which is one range read if nothing of
// it is cached.
func (l *loader) divide(cs []plannedChunk) ([]span, error) {
	order := make([]int, len(cs))
	for i := range order {
		order[i] = i
	}
	byRef := func(a, b int) int { return cmp.Compare(cs[a].ref, cs[b].ref) }
	if !slices.IsSortedFunc(order, byRef) {
		slices.SortFunc(order, byRef)
	}
	var spans []span
	for at, i := range order {
		num, offset := cs[i].ref.Unpack()
		if num >= len(l.segments) {
			return nil, fmt.Errorf("%w: it is in segment %d, the block has %d", errCorrupt, num+1, len(l.segments))
		}
		seg := &l.segments[num]
		if int64(offset)+chunks.MaxChunkLengthFieldSize > seg.size || offset < chunks.SegmentHeaderSize {
			return nil, fmt.Errorf("%w: it is at %d of %s, which has %d bytes", errCorrupt, offset, seg.key, seg.size)
		}
		size := int64(cs[i].size)
		if size == 0 {
			size = sizeGuess
		}
		first := uint32(offset / pageSize)
		last := uint32((min(int64(offset)+size, seg.size) - 1) / pageSize)
		if n := len(spans) - 1; n < 0 || !spans[n].takes(seg, first, last) {
			spans = append(spans, span{seg: seg})
		}
		sp := &spans[len(spans)-1]
		if sp.items == nil {
			sp.items = order[at:at]
		}
		sp.items = sp.items[:len(sp.items)+1]
		if n := len(sp.want); n > 0 {
			first = max(first, sp.want[n-1]+1)
		}
		for page := first; page <= last; page++ {
			sp.want = append(sp.want, page)
		}
	}
	return spans, nil
}

func (s *span) takes(seg *segment, first, last uint32) bool {
	end := s.want[len(s.want)-1]
	return s.seg == seg && last < s.want[0]+maxRunPages && (first <= end || first-end <= maxGapPages+1)
}

// readSpan fills in the chunks of a span. What is corrupt may be so in the
// cache only, so it is read from the bucket once more.
func (l *loader) readSpan(ctx context.Context, cs []plannedChunk, sp span, data [][]byte) error {
	want, err := l.trySpan(ctx, cs, sp, data)
	if !errors.Is(err, errCorrupt) {
		return err
	}
	l.pages.drop(sp.seg, want)
	_, err = l.trySpan(ctx, cs, sp, data)
	return err
}

func (l *loader) trySpan(ctx context.Context, cs []plannedChunk, sp span, data [][]byte) (want []uint32, err error) {
	if err := l.pages.copying.Acquire(ctx, sp.weight()); err != nil {
		return nil, err
	}
	defer l.pages.copying.Release(sp.weight())
	v := &view{seg: sp.seg}
	defer v.release()
	sizes := make([]chunkSize, len(sp.items))
	for missing := sp.want; len(missing) > 0; {
		got, err := l.pages.get(ctx, sp.seg, missing)
		if err != nil {
			return v.nums, err
		}
		v.add(missing, got)
		if missing, err = v.measureAll(cs, sp.items, sizes); err != nil {
			return v.nums, err
		}
	}
	return v.nums, v.copyAll(cs, sp.items, sizes, data)
}

// lend is load of chunks whose pages are few and all in memory: what it returns
// lies in these. nil: they are not, or something is wrong, which load tells.
func (l *loader) lend(cs []plannedChunk) [][]byte {
	spans, err := l.divide(cs)
	if err != nil || len(spans) != 1 || len(spans[0].want) > lentAtOnce {
		return nil
	}
	sp := spans[0]
	got := l.pages.inMemory(sp.seg, sp.want)
	if got == nil {
		return nil
	}
	v := &view{seg: sp.seg}
	defer v.release()
	v.add(sp.want, got)
	data := make([][]byte, len(cs))
	for _, i := range sp.items {
		size, missing, err := v.measure(offsetOf(cs[i]))
		if err != nil || len(missing) > 0 {
			return nil
		}
		body, ok := checked(v.lend(offsetOf(cs[i])+int64(size.head), size.body))
		if !ok {
			return nil
		}
		data[i] = body
	}
	return data
}

// weight is how many pages the chunks are copied from, perhaps without one that
// the index did not tell of.
func (s *span) weight() int64 { return min(int64(len(s.want)), copiedAtOnce) }

// copyAll copies the chunks that were measured.
func (v *view) copyAll(cs []plannedChunk, items []int, sizes []chunkSize, data [][]byte) error {
	total := 0
	for _, s := range sizes {
		total += s.body
	}
	arena := make([]byte, 0, total)
	for j, i := range items {
		start := len(arena)
		arena = v.appendTo(arena, offsetOf(cs[i])+int64(sizes[j].head), sizes[j].body)
		body, ok := checked(arena[start:len(arena):len(arena)])
		if !ok {
			return fmt.Errorf("%w: wrong checksum at %d of %s", errCorrupt, offsetOf(cs[i]), v.seg.key)
		}
		data[i] = body
	}
	return nil
}

// checked cuts off the checksum, which covers the encoding and the samples.
func checked(b []byte) ([]byte, bool) {
	n := len(b) - crc32.Size
	body, sum := b[:n:n], b[n:]
	return body, crc32.Checksum(body, castagnoli) == binary.BigEndian.Uint32(sum)
}

// writtenSize is the bytes that a chunk of this encoding and samples takes in a
// segment.
func writtenSize(body []byte) int64 {
	var length [binary.MaxVarintLen64]byte
	n := binary.PutUvarint(length[:], uint64(len(body)-chunks.ChunkEncodingSize))
	return int64(n + len(body) + crc32.Size)
}

func offsetOf(c plannedChunk) int64 { return int64(uint32(c.ref)) }

// chunkSize is the bytes of a chunk's length field, and of all that follows:
// encoding, samples, checksum.
type chunkSize struct{ head, body int }

// view is some pages of a segment.
type view struct {
	seg   *segment
	nums  []uint32 // rising
	pages []*page
	last  int // where a page was found last
}

func (v *view) release() {
	for _, pg := range v.pages {
		pg.release()
	}
}

func (v *view) add(nums []uint32, pages []*page) {
	if len(v.nums) == 0 {
		v.nums, v.pages = slices.Clone(nums), pages
		return
	}
	for j, n := range nums {
		if i, ok := slices.BinarySearch(v.nums, n); !ok {
			v.nums = slices.Insert(v.nums, i, n)
			v.pages = slices.Insert(v.pages, i, pages[j])
		} else {
			pages[j].release()
		}
	}
	v.last = 0
}

// page returns a page, nil if it is not in view.
func (v *view) page(n uint32) *page {
	for i := v.last; i < len(v.nums) && i < v.last+2; i++ {
		if v.nums[i] == n {
			v.last = i
			return v.pages[i]
		}
	}
	i, ok := slices.BinarySearch(v.nums, n)
	if !ok {
		return nil
	}
	v.last = i
	return v.pages[i]
}

// measureAll finds out how large the chunks are, and returns the pages that
// they reach into and that are not in view.
func (v *view) measureAll(cs []plannedChunk, items []int, sizes []chunkSize) (missing []uint32, err error) {
	for j, i := range items {
		size, need, err := v.measure(offsetOf(cs[i]))
		if err != nil {
			return nil, err
		}
		sizes[j] = size
		for _, n := range need {
			if !slices.Contains(missing, n) {
				missing = append(missing, n)
			}
		}
	}
	slices.Sort(missing)
	return missing, nil
}

// measure finds out how large the chunk at an offset is, or which pages it
// takes to know and to read it.
func (v *view) measure(offset int64) (size chunkSize, need []uint32, err error) {
	var buf [chunks.MaxChunkLengthFieldSize]byte
	head := min(int64(len(buf)), v.seg.size-offset)
	if need = v.lacking(offset, head); need != nil {
		return size, need, nil
	}
	length, n := binary.Uvarint(v.appendTo(buf[:0], offset, int(head)))
	if n <= 0 || length < minSamples || length > uint64(v.seg.size) {
		return size, nil, fmt.Errorf("%w: no length at %d of %s", errCorrupt, offset, v.seg.key)
	}
	size = chunkSize{head: n, body: chunks.ChunkEncodingSize + int(length) + crc32.Size}
	end := offset + int64(size.head+size.body)
	if end > v.seg.size {
		return size, nil, fmt.Errorf("%w: from %d to %d of %s, which has %d bytes", errCorrupt, offset, end, v.seg.key, v.seg.size)
	}
	return size, v.lacking(offset, end-offset), nil
}

// lacking returns the pages of a range that are not in view.
func (v *view) lacking(offset, length int64) (need []uint32) {
	for n := uint32(offset / pageSize); int64(n)*pageSize < offset+length; n++ {
		if v.page(n) == nil {
			need = append(need, n)
		}
	}
	return need
}

// lend returns a range that is in view: as it lies in its page, or a copy where
// it lies in two.
func (v *view) lend(offset int64, length int) []byte {
	pg, from := v.page(uint32(offset/pageSize)), int(offset%pageSize)
	if from+length > len(pg.data) {
		return v.appendTo(make([]byte, 0, length), offset, length)
	}
	pg.lend()
	return pg.data[from : from+length]
}

// appendTo copies a range that is in view.
func (v *view) appendTo(to []byte, offset int64, length int) []byte {
	for length > 0 {
		data := v.page(uint32(offset / pageSize)).data[offset%pageSize:]
		n := min(length, len(data))
		to = append(to, data[:n]...)
		offset += int64(n)
		length -= n
	}
	return to
}
