package storegateway

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
)

// oneObject is a bucket in which all objects have the same content.
type oneObject struct {
	bucket.Bucket // none: only GetRange is called

	content []byte
	mu      sync.Mutex
	reads   []string
}

func (o *oneObject) GetRange(_ context.Context, _ bucket.Key, offset, length int64) (io.ReadCloser, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.reads = append(o.reads, fmt.Sprintf("%d+%d", offset/pageSize, (length+pageSize-1)/pageSize))
	return io.NopCloser(bytes.NewReader(o.content[offset : offset+length])), nil
}

func (o *oneObject) taken() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := o.reads
	o.reads = nil
	return r
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rnd := rand.NewChaCha8([32]byte{1})
	_, _ = rnd.Read(b)
	return b
}

// testPages makes a cache over an object. Its tests wait for writes to disk by
// stopping it.
func testPages(tb testing.TB, content []byte, memory int64, disk *pageFile) (*pages, *oneObject, *segment) {
	tb.Helper()
	o := &oneObject{content: content}
	ctx, cancel := context.WithCancel(context.Background())
	p := newPages(ctx, o, memory, disk, discard, newMetrics(prometheus.NewRegistry()))
	tb.Cleanup(func() {
		cancel()
		require.NoError(tb, p.stop())
	})
	return p, o, &segment{key: "x", id: ulid.ULID{1}, num: 1, size: int64(len(content))}
}

func TestPagesAreReadInRuns(t *testing.T) {
	t.Parallel()
	content := randomBytes(100*pageSize + 777)
	p, o, seg := testPages(t, content, 10<<20, nil)
	get := func(want ...uint32) []string {
		t.Helper()
		got, err := p.get(context.Background(), seg, want)
		require.NoError(t, err)
		for i, n := range want {
			end := min(int(n+1)*pageSize, len(content))
			require.True(t, bytes.Equal(content[int(n)*pageSize:end], got[i].data), n)
		}
		return o.taken()
	}
	require.Equal(t, []string{"3+1"}, get(3))
	require.Empty(t, get(3))
	require.Equal(t, []string{"2+3"}, get(2, 3, 4), "one read over what is there")
	require.ElementsMatch(t, []string{"20+9", "40+1"}, get(20, 28, 40), "a small gap is read, a large one is not")
	require.ElementsMatch(t, []string{"60+1", "70+1"}, get(60, 70))
	require.Equal(t, []string{"100+1"}, get(100), "the last page is short")
	var many []uint32
	for n := range uint32(50) {
		many = append(many, n)
	}
	for _, r := range get(many...) {
		var first, count int
		_, err := fmt.Sscanf(r, "%d+%d", &first, &count)
		require.NoError(t, err)
		require.LessOrEqual(t, count, maxRunPages)
	}
}

func TestPageIsFetchedOnceForAll(t *testing.T) {
	t.Parallel()
	p, o, seg := testPages(t, randomBytes(10*pageSize), 10<<20, nil)
	require.NoError(t, p.slots.Acquire(t.Context(), fetchedAtOnce)) // no fetch begins until all have asked
	var asked, wg sync.WaitGroup
	asked.Add(20)
	for range 20 {
		wg.Go(func() {
			got := make([]*page, 2)
			_, waits := p.look(seg, []uint32{1, 5}, got)
			asked.Done()
			for _, w := range waits {
				<-w.fetch.done
			}
		})
	}
	asked.Wait()
	p.slots.Release(fetchedAtOnce)
	wg.Wait()
	require.Equal(t, []string{"1+5"}, o.taken())
}

func TestPageFileNeverGivesAWrongPage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	content := randomBytes(64*pageSize + 5)
	rnd := rand.New(rand.NewPCG(4, 4))
	for round, limit := range []int64{40 * pageSize, 40 * pageSize, 20 * pageSize, 64 * pageSize} {
		f, err := openPageFile(dir, limit)
		require.NoError(t, err)
		if round > 0 {
			require.NotEmpty(t, f.index, "what was there is still there")
		}
		require.LessOrEqual(t, f.bytes(), limit)
		// No memory: all comes from disk or the bucket.
		p, _, seg := testPages(t, content, 0, f)
		var wg sync.WaitGroup
		for range 4 {
			r := rand.New(rand.NewPCG(rnd.Uint64(), 5))
			wg.Go(func() {
				for range 60 {
					n := r.Uint32N(64)
					got, err := p.get(context.Background(), seg, []uint32{n, n + 1})
					if err != nil {
						t.Error(err)
						return
					}
					for i, page := range got {
						at := int(n) + i
						if !bytes.Equal(page.data, content[at*pageSize:min((at+1)*pageSize, len(content))]) {
							t.Errorf("page %d is wrong", at)
						}
						page.release()
					}
					if r.IntN(10) == 0 {
						p.drop(seg, []uint32{n})
					}
				}
			})
		}
		wg.Wait()
		require.NoError(t, p.stop())
		require.LessOrEqual(t, f.bytes(), limit)
		f.pages, f.heads = nil, nil // closed; the clean-up stops again
	}
}

func TestPageFileRestsAfterAFailure(t *testing.T) {
	t.Parallel()
	f, err := openPageFile(t.TempDir(), minPageFile)
	require.NoError(t, err)
	require.NoError(t, f.close())
	key, now := pageKey{page: 1}, time.Now()
	slot, ok := f.reserve(key, now)
	require.True(t, ok)
	f.commit(key, slot, 10, f.write(key, slot, make([]byte, 10)))
	_, ok = f.look(key)
	require.False(t, ok)
	_, ok = f.reserve(key, now)
	require.False(t, ok)
	_, ok = f.reserve(key, now.Add(2*writePause))
	require.True(t, ok)
}

// appendChunk writes a chunk as it is in a segment.
func appendChunk(b, samples []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(samples)))
	body := append([]byte{1}, samples...)
	b = append(b, body...)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(body, castagnoli))
}

func TestChunksAnywhereInASegment(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(6, 6))
	content := make([]byte, chunks.SegmentHeaderSize)
	var planned []plannedChunk
	var want [][]byte
	for range 400 {
		// Small ones, ones larger than a page, and ones whose length field or
		// checksum is divided by a page's end.
		n := 2 + rnd.IntN(300)
		switch rnd.IntN(20) {
		case 0:
			n = pageSize + rnd.IntN(3*pageSize)
		case 1:
			n = max(2, pageSize-len(content)%pageSize-rnd.IntN(12))
		}
		samples := randomBytes(n)
		planned = append(planned, plannedChunk{ref: chunks.NewBlockChunkRef(0, uint64(len(content)))})
		want = append(want, append([]byte{1}, samples...))
		content = appendChunk(content, samples)
		if rnd.IntN(10) == 0 {
			content = append(content, make([]byte, rnd.IntN(pageSize))...)
		}
	}
	p, _, seg := testPages(t, content, 1<<20, nil)
	l := &loader{pages: p, segments: []segment{*seg}, fail: func(err error) error { return err }}
	for range 5 {
		for i := range planned {
			size := writtenSize(want[i])
			switch rnd.IntN(4) { // the index may tell the size, or mislead
			case 0:
				size = 0
			case 1:
				size += rnd.Int64N(3 * pageSize)
			case 2:
				size = 1 + rnd.Int64N(size)
			}
			planned[i].size = uint32(size)
		}
		got, err := l.load(context.Background(), planned)
		require.NoError(t, err)
		for i := range want {
			require.True(t, bytes.Equal(want[i], got[i]), i)
		}
		rnd.Shuffle(len(planned), func(i, j int) {
			planned[i], planned[j] = planned[j], planned[i]
			want[i], want[j] = want[j], want[i]
		})
	}
}

// FuzzLoad reads chunks from bytes that need not be a segment: no panic, and
// what is returned has the checksum that is written behind it.
func FuzzLoad(f *testing.F) {
	valid := appendChunk(appendChunk(make([]byte, 8), randomBytes(30)), randomBytes(200))
	f.Add(valid, uint32(8), uint32(0))
	f.Add(valid, uint32(8), uint32(44))
	f.Add(valid, uint32(9), uint32(100_000))
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255}, uint32(8), uint32(1))
	f.Fuzz(func(t *testing.T, content []byte, offset, size uint32) {
		p, _, seg := testPages(t, content, 1<<20, nil)
		l := &loader{pages: p, segments: []segment{*seg}, fail: func(err error) error { return err }}
		got, err := l.load(context.Background(), []plannedChunk{{ref: chunks.NewBlockChunkRef(0, uint64(offset)), size: size}})
		if err != nil {
			return
		}
		length, n := binary.Uvarint(content[offset:])
		at := int(offset) + n
		body := content[at : at+1+int(length)]
		require.Equal(t, body, got[0])
		require.Equal(t, crc32.Checksum(body, castagnoli), binary.BigEndian.Uint32(content[at+len(body):]))
	})
}
