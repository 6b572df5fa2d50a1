package block_test

import (
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket/block"
)

// TestVerifyReadsPastChecksums forges chunks whose checksums are right: the
// samples themselves are read.
func TestVerifyReadsPastChecksums(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(4, 1))
	dir := aBlock(t, r)
	want := read(t, dir)
	segment := filepath.Join(dir, "chunks", "000001")
	original, err := os.ReadFile(segment)
	require.NoError(t, err)
	refs := chunkOffsets(t, dir)
	found := 0
	for range 200 {
		content := append([]byte(nil), original...)
		at := refs[r.IntN(len(refs))]
		length, n := uvarint(content[at:])
		data := content[at+n+1 : at+n+1+length]
		for range 1 + r.IntN(4) {
			data[r.IntN(len(data))] ^= byte(1 + r.IntN(255))
		}
		sum := crc32.Checksum(content[at+n:at+n+1+length], crc32.MakeTable(crc32.Castagnoli))
		putUint32(content[at+n+1+length:], sum)
		require.NoError(t, os.WriteFile(segment, content, 0o666))
		if _, err := block.Verify(t.Context(), dir, nil); err != nil {
			found++
			continue
		}
		// Other values at the same times are a sound block.
		got, err := tryRead(dir)
		require.NoError(t, err)
		require.Len(t, got, len(want))
	}
	t.Logf("%d of 200 found", found)
	require.Positive(t, found)
}

// chunkOffsets are where the chunks of a block's only segment begin.
func chunkOffsets(t testing.TB, dir string) (at []int) {
	t.Helper()
	r, err := index.NewFileReader(filepath.Join(dir, "index"), index.DecodePostingsRaw)
	require.NoError(t, err)
	defer r.Close()
	name, value := index.AllPostingsKey()
	all, err := r.Postings(t.Context(), name, value)
	require.NoError(t, err)
	var b labels.ScratchBuilder
	var metas []chunks.Meta
	for all.Next() {
		require.NoError(t, r.Series(all.At(), &b, &metas))
		for _, m := range metas {
			_, offset := chunks.BlockChunkRef(m.Ref).Unpack()
			at = append(at, offset)
		}
	}
	return at
}

func uvarint(b []byte) (v, n int) {
	for shift := 0; ; shift += 7 {
		v |= int(b[n]&0x7f) << shift
		n++
		if b[n-1]&0x80 == 0 {
			return v, n
		}
	}
}

func putUint32(b []byte, v uint32) {
	b[0], b[1], b[2], b[3] = byte(v>>24), byte(v>>16), byte(v>>8), byte(v)
}

// TestVerifyFindsForgedPostings writes an index whose series are right and
// whose lists of series lack one, or have one that does not belong there.
func TestVerifyFindsForgedPostings(t *testing.T) {
	t.Parallel()
	dir := makeBlock(t, []storage.Series{
		storage.NewListSeries(labels.FromStrings("__name__", "up", "host", "a"), []chunks.Sample{sample{t: day, f: 1}}),
		storage.NewListSeries(labels.FromStrings("__name__", "up", "host", "b"), []chunks.Sample{sample{t: day, f: 2}}),
	})
	path := filepath.Join(dir, "index")
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	toc, err := index.NewTOCFromByteSlice(slice(content))
	require.NoError(t, err)
	// Lists come in order of labels, each as length, count, references,
	// checksum: all series, __name__="up", host="a", host="b".
	at := int(toc.Postings)
	lists := [][]byte{}
	for len(lists) < 4 {
		for content[at] == 0 && at%4 != 0 {
			at++
		}
		n := int(content[at])<<24 | int(content[at+1])<<16 | int(content[at+2])<<8 | int(content[at+3])
		lists = append(lists, content[at+4:at+4+n+4])
		at += 4 + n + 4
		at += (4 - at%4) % 4
	}
	a, b := lists[2], lists[3]
	require.Len(t, a, 12)
	copy(a[4:8], b[4:8]) // host="a" names the series of b
	putUint32(a[8:], crc32.Checksum(a[:8], crc32.MakeTable(crc32.Castagnoli)))
	require.NoError(t, os.WriteFile(path, content, 0o666))
	_, err = block.Verify(t.Context(), dir, nil)
	require.ErrorContains(t, err, `list of host="a": it has {__name__="up", host="b"}`)
}

type slice []byte

func (s slice) Len() int                    { return len(s) }
func (s slice) Range(start, end int) []byte { return s[start:end] }
