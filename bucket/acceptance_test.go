package bucket

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

func TestFolder(t *testing.T) {
	t.Parallel()
	acceptBucket(t, func(t *testing.T) Bucket { return openFolder(t, t.TempDir()) })
}

func TestS3(t *testing.T) {
	t.Parallel()
	acceptBucket(t, func(t *testing.T) Bucket { return openS3(t, s3Config(t), defaultS3Bounds()) })
}

func openFolder(t testing.TB, dir string) Bucket {
	t.Helper()
	b, err := newFolder(dir)
	require.NoError(t, err)
	return &observed{b, newMetrics(prometheus.NewRegistry()), "test"}
}

// acceptBucket is what every Bucket promises. open returns an empty one.
func acceptBucket(t *testing.T, open func(*testing.T) Bucket) {
	for name, test := range map[string]func(*testing.T, Bucket){
		"objects":              acceptObjects,
		"empty objects":        acceptEmptyObjects,
		"not found":            acceptNotFound,
		"keys":                 acceptKeys,
		"ranges":               acceptRanges,
		"condition IfAbsent":   acceptIfAbsent,
		"condition IfMatch":    acceptIfMatch,
		"one wins the race":    acceptRace,
		"compare and swap":     acceptCounter,
		"etags":                acceptETags,
		"listing":              acceptListing,
		"long listing":         acceptLongListing,
		"cancelled":            acceptCancelled,
		"source fails":         acceptSourceFails,
		"source stands inside": acceptSourceOffset,
		"large object":         acceptLarge,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, open(t))
		})
	}
}

func put(t testing.TB, b Bucket, key Key, content string) string {
	t.Helper()
	etag, err := putIf(b, key, content, Condition{})
	require.NoError(t, err)
	return etag
}

func putIf(b Bucket, key Key, content string, cond Condition) (string, error) {
	return b.Put(context.Background(), key, strings.NewReader(content), int64(len(content)), cond)
}

func get(t testing.TB, b Bucket, key Key) string {
	t.Helper()
	content, obj, err := ReadAll(t.Context(), b, key)
	require.NoError(t, err)
	require.Equal(t, key, obj.Key)
	require.EqualValues(t, len(content), obj.Size)
	return string(content)
}

func list(t testing.TB, b Bucket, prefix Key, recursive bool) []Key {
	t.Helper()
	keys := []Key{}
	for obj, err := range b.List(t.Context(), prefix, recursive) {
		require.NoError(t, err)
		keys = append(keys, obj.Key)
	}
	return keys
}

func acceptObjects(t *testing.T, b Bucket) {
	etag := put(t, b, "a/b/c", "one")
	require.NotEmpty(t, etag)
	require.Equal(t, "one", get(t, b, "a/b/c"))
	obj, err := b.Stat(t.Context(), "a/b/c")
	require.NoError(t, err)
	require.Equal(t, Key("a/b/c"), obj.Key)
	require.EqualValues(t, 3, obj.Size)
	require.Equal(t, etag, obj.ETag)
	require.False(t, obj.Modified.IsZero())

	second := put(t, b, "a/b/c", "two, longer")
	require.NotEqual(t, etag, second)
	require.Equal(t, "two, longer", get(t, b, "a/b/c"))
	_, obj, err = ReadAll(t.Context(), b, "a/b/c")
	require.NoError(t, err)
	require.Equal(t, second, obj.ETag)

	put(t, b, "a/b/d", "other")
	require.NoError(t, b.Delete(t.Context(), "a/b/c"))
	require.Equal(t, []Key{"a/b/d"}, list(t, b, "", true))
	require.NoError(t, b.Delete(t.Context(), "a/b/d"))
	require.Empty(t, list(t, b, "", false))
	require.Empty(t, list(t, b, "a/", true))
	put(t, b, "a", "where a folder was") // nothing is left of the folder
}

func acceptEmptyObjects(t *testing.T, b Bucket) {
	put(t, b, "empty", "")
	require.Empty(t, get(t, b, "empty"))
	rc, err := b.GetRange(t.Context(), "empty", 0, 0)
	require.NoError(t, err)
	content, err := io.ReadAll(rc)
	require.NoError(t, err)
	require.Empty(t, content)
	require.NoError(t, rc.Close())
	_, err = readRange(t.Context(), b, "empty", 0, 1)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

func acceptNotFound(t *testing.T, b Bucket) {
	put(t, b, "folder/object", "x")
	for _, key := range []Key{"missing", "folder", "folder/missing", "missing/missing"} {
		_, _, err := b.Get(t.Context(), key)
		require.ErrorIs(t, err, ErrNotFound)
		require.ErrorContains(t, err, string(key))
		_, err = b.GetRange(t.Context(), key, 0, 1)
		require.ErrorIs(t, err, ErrNotFound)
		_, err = b.GetRange(t.Context(), key, 0, 0)
		require.ErrorIs(t, err, ErrNotFound)
		_, err = b.Stat(t.Context(), key)
		require.ErrorIs(t, err, ErrNotFound)
		require.NoError(t, b.Delete(t.Context(), key))
	}
	require.Empty(t, list(t, b, "missing/", true))
	require.Empty(t, list(t, b, "missing/", false))
	require.Equal(t, "x", get(t, b, "folder/object"))
}

func acceptKeys(t *testing.T, b Bucket) {
	good := []Key{
		"!-_.*'()", "t!-_.*'()/!-_.*'()", "azAZ09", "...", "a..b", ".hidden", "tmp", "*", "'", "(", "-",
		"__hearth__/pool/x", "héarth/ü", "a b", "a+b", "a%20b", "a&b=c?d#e", "~", "a:b", "a,b;c@d",
		Key(strings.Repeat("x", 150)),
	}
	for _, key := range good {
		put(t, b, key, "content of "+string(key))
	}
	for _, key := range good {
		require.Equal(t, "content of "+string(key), get(t, b, key))
		_, err := b.Stat(t.Context(), key)
		require.NoError(t, err)
	}
	slices.Sort(good)
	require.Equal(t, good, list(t, b, "", true))
	require.Equal(t, []Key{"t!-_.*'()/!-_.*'()"}, list(t, b, "t!-_.*'()/", false))
	for _, key := range good {
		require.NoError(t, b.Delete(t.Context(), key))
	}
	require.Empty(t, list(t, b, "", true))

	for _, key := range []Key{
		"", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", "a/../b", "./a", "a/.", "a\x00", "a\nb", "a\\b", "\xff",
		Key(strings.Repeat("x", 256)), Key(strings.Repeat("x/", 600) + "x"), hiddenDir, hiddenDir + "/x",
	} {
		_, err := putIf(b, key, "x", Condition{})
		require.ErrorContains(t, err, "invalid key", "%q", key)
		_, _, err = b.Get(t.Context(), key)
		require.ErrorContains(t, err, "invalid key", "%q", key)
		require.NotErrorIs(t, err, ErrNotFound)
		_, err = b.GetRange(t.Context(), key, 0, 1)
		require.ErrorContains(t, err, "invalid key", "%q", key)
		_, err = b.Stat(t.Context(), key)
		require.ErrorContains(t, err, "invalid key", "%q", key)
		require.ErrorContains(t, b.Delete(t.Context(), key), "invalid key", "%q", key)
	}
	for _, prefix := range []Key{"a", "/", "../", "a/../", "a//"} {
		for _, err := range b.List(t.Context(), prefix, true) {
			require.ErrorContains(t, err, "invalid", "%q", prefix)
		}
	}
}

func readRange(ctx context.Context, b Bucket, key Key, offset, length int64) (string, error) {
	rc, err := b.GetRange(ctx, key, offset, length)
	if err != nil {
		return "", err
	}
	defer rc.Close()
	content, err := io.ReadAll(rc)
	return string(content), err
}

func acceptRanges(t *testing.T, b Bucket) {
	put(t, b, "k", "0123456789")
	for _, c := range []struct {
		offset, length int64
		want           string
		err            error
	}{
		{0, 10, "0123456789", nil},
		{0, 1, "0", nil},
		{9, 1, "9", nil},
		{3, 4, "3456", nil},
		{3, 0, "", nil},
		{10, 0, "", nil},
		{0, 11, "", io.ErrUnexpectedEOF},
		{9, 2, "", io.ErrUnexpectedEOF},
		{10, 1, "", io.ErrUnexpectedEOF},
		{11, 0, "", io.ErrUnexpectedEOF},
		{1 << 40, 1 << 40, "", io.ErrUnexpectedEOF},
	} {
		got, err := readRange(t.Context(), b, "k", c.offset, c.length)
		require.ErrorIs(t, err, c.err, "%d+%d", c.offset, c.length)
		require.Equal(t, c.want, got, "%d+%d", c.offset, c.length)
	}
	for _, c := range [][2]int64{{-1, 1}, {0, -1}} {
		_, err := b.GetRange(t.Context(), "k", c[0], c[1])
		require.ErrorContains(t, err, "negative")
	}
}

// acceptETags writes objects of equal size as fast as it goes.
func acceptETags(t *testing.T, b Bucket) {
	seen := map[string]string{}
	for i := range 40 {
		content := fmt.Sprintf("%03d", i)
		etag := put(t, b, "k", content)
		require.NotContains(t, seen, etag, "the ETag of %q", content)
		seen[etag] = content
		if i%10 == 0 {
			require.NoError(t, b.Delete(t.Context(), "k"))
		}
	}
}

func acceptListing(t *testing.T, b Bucket) {
	// In order of bytes, a folder's name with its slash.
	all := []Key{"a.b", "a/1", "a/2/x", "a/2/y/z", "a/3", "a0", "ab", "b/c", "c"}
	shuffled := slices.Clone(all)
	rand.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	for _, key := range shuffled {
		put(t, b, key, string(key))
	}
	require.Equal(t, all, list(t, b, "", true))
	require.Equal(t, []Key{"a.b", "a/", "a0", "ab", "b/", "c"}, list(t, b, "", false))
	require.Equal(t, []Key{"a/1", "a/2/x", "a/2/y/z", "a/3"}, list(t, b, "a/", true))
	require.Equal(t, []Key{"a/1", "a/2/", "a/3"}, list(t, b, "a/", false))
	require.Equal(t, []Key{"a/2/x", "a/2/y/"}, list(t, b, "a/2/", false))
	require.Empty(t, list(t, b, "c/", true))

	for obj, err := range b.List(t.Context(), "", true) {
		require.NoError(t, err)
		stat, err := b.Stat(t.Context(), obj.Key)
		require.NoError(t, err)
		require.EqualValues(t, len(obj.Key), obj.Size)
		require.Equal(t, stat.ETag, obj.ETag)
		require.WithinDuration(t, stat.Modified, obj.Modified, 2e9)
	}
	n := 0
	for range b.List(t.Context(), "", true) {
		if n++; n == 2 {
			break
		}
	}
	require.Equal(t, 2, n)
}

// acceptLongListing has folders and objects over several pages of 1000.
func acceptLongListing(t *testing.T, b Bucket) {
	var all, top []Key
	for i := range 800 {
		folder := Key(fmt.Sprintf("l/f%04d", i))
		all = append(all, folder+"/x")
		top = append(top, folder+"/")
		if i%2 == 0 {
			all = append(all, folder+"0")
			top = append(top, folder+"0")
		}
	}
	fill(t, b, all)
	slices.Sort(all)
	slices.Sort(top)
	require.Equal(t, all, list(t, b, "l/", true))
	require.Equal(t, top, list(t, b, "l/", false))
	require.Equal(t, []Key{"l/"}, list(t, b, "", false))
}

func fill(t *testing.T, b Bucket, keys []Key) {
	t.Helper()
	var wg sync.WaitGroup
	for part := range slices.Chunk(keys, (len(keys)+15)/16) {
		wg.Go(func() {
			for _, key := range part {
				if _, err := putIf(b, key, "x", Condition{}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func acceptCancelled(t *testing.T, b Bucket) {
	put(t, b, "k", strings.Repeat("x", 1<<20))
	ctx, cancel := context.WithCancel(t.Context())
	rc, _, err := b.Get(ctx, "k")
	require.NoError(t, err)
	cancel()
	_, err = io.Copy(io.Discard, rc)
	require.ErrorIs(t, err, context.Canceled)
	require.NoError(t, rc.Close())

	_, _, err = b.Get(ctx, "k")
	require.ErrorIs(t, err, context.Canceled)
	_, err = b.GetRange(ctx, "k", 0, 1)
	require.ErrorIs(t, err, context.Canceled)
	_, err = b.Stat(ctx, "k")
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, b.Delete(ctx, "k"), context.Canceled)
	_, err = b.Put(ctx, "k", strings.NewReader("y"), 1, Condition{})
	require.ErrorIs(t, err, context.Canceled)
	n := 0
	for _, err := range b.List(ctx, "", true) {
		require.ErrorIs(t, err, context.Canceled)
		n++
	}
	require.Equal(t, 1, n, "a cancelled listing ends with its error")
	_, err = b.Stat(t.Context(), "k")
	require.NoError(t, err)
}

// acceptSourceFails has a source that is shorter than said, or breaks.
func acceptSourceFails(t *testing.T, b Bucket) {
	_, err := b.Put(t.Context(), "short", strings.NewReader("123"), 4, Condition{})
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	broken := errors.New("broken disk")
	_, err = b.Put(t.Context(), "broken", &brokenSource{Reader: bytes.NewReader(make([]byte, 1<<20)), err: broken}, 1<<20, Condition{})
	require.ErrorIs(t, err, broken)
	require.Empty(t, list(t, b, "", true))
}

type brokenSource struct {
	*bytes.Reader
	err error
}

func (s *brokenSource) Read(p []byte) (int, error) {
	if s.Reader.Len() < 1<<19 {
		return 0, s.err
	}
	return s.Reader.Read(p)
}

func (s *brokenSource) ReadAt(p []byte, off int64) (int, error) {
	if off > 1<<19 {
		return 0, s.err
	}
	return s.Reader.ReadAt(p, off)
}

// onlySeeks hides all but Read and Seek.
type onlySeeks struct{ io.ReadSeeker }

func acceptSourceOffset(t *testing.T, b Bucket) {
	for _, r := range []io.ReadSeeker{strings.NewReader("0123456789"), onlySeeks{strings.NewReader("0123456789")}} {
		_, err := r.Seek(3, io.SeekStart)
		require.NoError(t, err)
		_, err = b.Put(t.Context(), "k", r, 4, Condition{})
		require.NoError(t, err)
		require.Equal(t, "3456", get(t, b, "k"))
	}
}

// randomFile has bytes that no part of it repeats.
func randomFile(t testing.TB, size int64) (path string, sum [32]byte) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "random")
	file, err := os.Create(path)
	require.NoError(t, err)
	h := sha256.New()
	_, err = io.CopyN(io.MultiWriter(file, h), rand.NewChaCha8([32]byte{1, 2, 3}), size)
	require.NoError(t, err)
	require.NoError(t, file.Close())
	return path, [32]byte(h.Sum(nil))
}

func acceptLarge(t *testing.T, b Bucket) {
	const size = 100 << 20
	path, sum := randomFile(t, size)
	file, err := os.Open(path)
	require.NoError(t, err)
	defer file.Close()
	etag, err := b.Put(t.Context(), "large", file, size, Condition{IfAbsent: true})
	require.NoError(t, err)
	obj, err := b.Stat(t.Context(), "large")
	require.NoError(t, err)
	require.EqualValues(t, size, obj.Size)
	require.Equal(t, etag, obj.ETag)

	_, err = b.Put(t.Context(), "large", file, 0, Condition{IfAbsent: true})
	require.ErrorIs(t, err, ErrPrecondition)
	_, err = file.Seek(0, io.SeekStart)
	require.NoError(t, err)
	_, err = b.Put(t.Context(), "large", file, size, Condition{IfAbsent: true})
	require.ErrorIs(t, err, ErrPrecondition)
	_, err = file.Seek(0, io.SeekStart)
	require.NoError(t, err)
	_, err = b.Put(t.Context(), "large", onlySeeks{file}, size, Condition{IfMatch: etag})
	require.NoError(t, err)

	fetched := filepath.Join(t.TempDir(), "fetched")
	require.NoError(t, FetchFile(t.Context(), b, "large", fetched))
	content, err := os.ReadFile(fetched)
	require.NoError(t, err)
	require.Equal(t, sum, sha256.Sum256(content))
	for _, offset := range []int64{0, 64<<20 - 5, size - 10} {
		got, err := readRange(t.Context(), b, "large", offset, 10)
		require.NoError(t, err)
		require.Equal(t, string(content[offset:offset+10]), got)
	}
	require.Equal(t, []Key{"large"}, list(t, b, "", true))
}
