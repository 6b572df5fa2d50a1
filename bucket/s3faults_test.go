package bucket

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket/buckettest"
)

// openFaulty opens a bucket behind a proxy, and the same bucket without it.
func openFaulty(t *testing.T, idle time.Duration) (faulty, direct Bucket, p *buckettest.Proxy) {
	t.Helper()
	cfg := s3Config(t)
	direct = openS3(t, cfg, defaultS3Bounds())
	p = buckettest.StartProxy(t, cfg.Endpoint)
	cfg.Endpoint = p.Addr
	// On a busy machine a request may take longer than a short idle time once
	// and again; hence the many tries.
	bounds := s3Bounds{tries: 8, backoff: time.Millisecond, idle: idle, part: 5 << 20, slowest: 64 << 10, page: 3}
	return openS3(t, cfg, bounds), direct, p
}

// faultyOperations do something and check that it was done, once and right.
var faultyOperations = map[string]func(*testing.T, Bucket, Bucket){
	"get": func(t *testing.T, b, direct Bucket) {
		content := strings.Repeat("0123456789", 10_000)
		put(t, direct, "k", content)
		require.Equal(t, content, get(t, b, "k"))
	},
	"get range": func(t *testing.T, b, direct Bucket) {
		content := strings.Repeat("0123456789", 10_000)
		put(t, direct, "k", content)
		got, err := readRange(t.Context(), b, "k", 5, 70_000)
		require.NoError(t, err)
		require.Equal(t, content[5:70_005], got)
	},
	"stat": func(t *testing.T, b, direct Bucket) {
		put(t, direct, "k", "content")
		obj, err := b.Stat(t.Context(), "k")
		require.NoError(t, err)
		require.EqualValues(t, 7, obj.Size)
	},
	"stat of nothing": func(t *testing.T, b, direct Bucket) {
		_, err := b.Stat(t.Context(), "k")
		require.ErrorIs(t, err, ErrNotFound)
	},
	"put": func(t *testing.T, b, direct Bucket) {
		content := strings.Repeat("0123456789", 10_000)
		etag := put(t, b, "k", content)
		require.Equal(t, content, get(t, direct, "k"))
		obj, err := direct.Stat(t.Context(), "k")
		require.NoError(t, err)
		require.Equal(t, obj.ETag, etag)
	},
	"put if absent": func(t *testing.T, b, direct Bucket) {
		etag, err := putIf(b, "k", "content", Condition{IfAbsent: true})
		require.NoError(t, err)
		require.Equal(t, "content", get(t, direct, "k"))
		obj, err := direct.Stat(t.Context(), "k")
		require.NoError(t, err)
		require.Equal(t, obj.ETag, etag)
	},
	"put if absent, but there": func(t *testing.T, b, direct Bucket) {
		put(t, direct, "k", "first")
		_, err := putIf(b, "k", "second", Condition{IfAbsent: true})
		require.ErrorIs(t, err, ErrPrecondition)
		require.Equal(t, "first", get(t, direct, "k"))
	},
	"put if match": func(t *testing.T, b, direct Bucket) {
		etag := put(t, direct, "k", "first")
		_, err := putIf(b, "k", "second", Condition{IfMatch: etag})
		require.NoError(t, err)
		require.Equal(t, "second", get(t, direct, "k"))
		_, err = putIf(b, "k", "third", Condition{IfMatch: etag})
		require.ErrorIs(t, err, ErrPrecondition)
	},
	"put in parts": func(t *testing.T, b, direct Bucket) {
		content := make([]byte, 11<<20)
		_, _ = rand.NewChaCha8([32]byte{7}).Read(content)
		_, err := b.Put(t.Context(), "k", bytes.NewReader(content), int64(len(content)), Condition{IfAbsent: true})
		require.NoError(t, err)
		require.Equal(t, sha256.Sum256(content), sha256.Sum256([]byte(get(t, direct, "k"))))
	},
	"list": func(t *testing.T, b, direct Bucket) {
		want := []Key{"l/a", "l/b/", "l/c", "l/d/", "l/e"}
		for _, key := range want {
			put(t, direct, key.stripFolder("x"), "x")
		}
		require.Equal(t, want, list(t, b, "l/", false))
		require.Equal(t, []Key{"l/a", "l/b/x", "l/c", "l/d/x", "l/e"}, list(t, b, "l/", true))
	},
	"delete": func(t *testing.T, b, direct Bucket) {
		put(t, direct, "k", "content")
		require.NoError(t, b.Delete(t.Context(), "k"))
		_, err := direct.Stat(t.Context(), "k")
		require.ErrorIs(t, err, ErrNotFound)
	},
}

// stripFolder names an object in a folder's key, or the key itself.
func (k Key) stripFolder(object string) Key {
	if strings.HasSuffix(string(k), "/") {
		return k + Key(object)
	}
	return k
}

// TestS3FaultsPass has each fault twice in a row (what hangs, once, since it
// takes its time), then a service that works.
func TestS3FaultsPass(t *testing.T) {
	t.Parallel()
	for name, operation := range faultyOperations {
		for _, f := range append(buckettest.Failures(), buckettest.Dribble) {
			t.Run(name+"/"+string(f), func(t *testing.T) {
				t.Parallel()
				n, idle := 2, time.Minute
				if f == buckettest.Hang || f == buckettest.HangInBody {
					// Long enough for a part on a busy machine.
					n, idle = 1, time.Second
					if name == "put in parts" {
						idle = 4 * time.Second
					}
				}
				b, direct, p := openFaulty(t, idle)
				p.First(n, f, func(*http.Request) bool { return true })
				operation(t, b, direct)
			})
		}
	}
}

// TestS3FaultsStay has a service that never recovers: an error that says where,
// within a bounded time.
func TestS3FaultsStay(t *testing.T) {
	t.Parallel()
	operations := map[string]func(context.Context, Bucket) error{
		"get":       func(ctx context.Context, b Bucket) error { _, _, err := ReadAll(ctx, b, "k"); return err },
		"get range": func(ctx context.Context, b Bucket) error { _, err := readRange(ctx, b, "k", 1, 5); return err },
		"stat":      func(ctx context.Context, b Bucket) error { _, err := b.Stat(ctx, "k"); return err },
		"put": func(ctx context.Context, b Bucket) error {
			_, err := putIf(b, "new", "content", Condition{})
			return err
		},
		"put if absent": func(ctx context.Context, b Bucket) error {
			_, err := putIf(b, "new", "content", Condition{IfAbsent: true})
			return err
		},
		"delete": func(ctx context.Context, b Bucket) error { return b.Delete(ctx, "other") },
		"list": func(ctx context.Context, b Bucket) error {
			for _, err := range b.List(ctx, "", true) {
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
	for name, operation := range operations {
		for _, f := range []buckettest.Fault{buckettest.Refuse, buckettest.SlowDown, buckettest.ResetBefore, buckettest.Hang, buckettest.BadGateway, buckettest.EarlyRefusal} {
			t.Run(name+"/"+string(f), func(t *testing.T) {
				t.Parallel()
				b, direct, p := openFaulty(t, 100*time.Millisecond)
				put(t, direct, "k", "0123456789")
				p.Always(f)
				err := operation(t.Context(), b)
				require.Error(t, err)
				require.NotErrorIs(t, err, ErrNotFound)
				require.NotErrorIs(t, err, ErrPrecondition)
				require.ErrorContains(t, err, buckettest.Bucket)
				require.ErrorContains(t, err, "127.0.0.1:")
				require.NotContains(t, err.Error(), buckettest.SecretAccessKey)
			})
		}
	}
}

// TestS3HangEndsWithContext gives up long before the service does.
func TestS3HangEndsWithContext(t *testing.T) {
	t.Parallel()
	b, direct, p := openFaulty(t, time.Hour)
	put(t, direct, "k", strings.Repeat("x", 100_000))
	for _, f := range []buckettest.Fault{buckettest.Hang, buckettest.HangInBody} {
		p.Always(f)
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		_, _, err := ReadAll(ctx, b, "k")
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
	}
}

// TestS3LyingAnswers has answers that look whole and are not.
func TestS3LyingAnswers(t *testing.T) {
	t.Parallel()
	for _, f := range []buckettest.Fault{buckettest.ShortLength, buckettest.IgnoreRange} {
		t.Run(string(f), func(t *testing.T) {
			t.Parallel()
			b, direct, p := openFaulty(t, time.Minute)
			put(t, direct, "k", "0123456789")
			p.Always(f)
			_, err := readRange(t.Context(), b, "k", 2, 6)
			require.Error(t, err)
		})
	}
}

// TestS3ReplacedWhileRead breaks a Get off and replaces the object before it
// goes on: never half of each.
func TestS3ReplacedWhileRead(t *testing.T) {
	t.Parallel()
	b, direct, p := openFaulty(t, time.Minute)
	put(t, direct, "k", strings.Repeat("1", 100_000))
	p.First(1, buckettest.Truncate, func(r *http.Request) bool { return r.Method == http.MethodGet })
	rc, _, err := b.Get(t.Context(), "k")
	require.NoError(t, err)
	defer rc.Close()
	put(t, direct, "k", strings.Repeat("2", 100_000))
	content, err := io.ReadAll(rc)
	require.ErrorIs(t, err, ErrPrecondition)
	require.NotContains(t, string(content), "2")
}

// TestS3Storm runs a workload over a service of which every third answer is
// wrong in some way. What is read is always something that was written.
func TestS3Storm(t *testing.T) {
	t.Parallel()
	b, direct, p := openFaulty(t, 300*time.Millisecond)
	rng, failures := rand.New(rand.NewPCG(1, 2)), buckettest.Failures()
	p.Plan(func(*http.Request) buckettest.Fault {
		if rng.IntN(3) > 0 {
			return buckettest.Pass
		}
		return failures[rng.IntN(len(failures))]
	})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() { storm(t, b, direct, Key(fmt.Sprintf("w%d", w)), 40) })
	}
	wg.Wait()
	p.Always(buckettest.Pass)
	retries := testutil.CollectAndCount(b.(*observed).m.retries)
	require.Positive(t, retries)
}

// storm writes and reads one key that nobody else touches. A failed write may
// have had its effect or not.
func storm(t *testing.T, b, direct Bucket, key Key, rounds int) {
	ctx := context.Background()
	possible := map[string]bool{}
	for i := range rounds {
		content := strings.Repeat(fmt.Sprintf("%s/%d ", key, i), 1+i*200)
		if _, err := b.Put(ctx, key, strings.NewReader(content), int64(len(content)), Condition{}); err == nil {
			clear(possible)
		} else if errors.Is(err, ErrPrecondition) || errors.Is(err, ErrNotFound) {
			t.Errorf("put: %v", err)
		}
		possible[content] = true
		for _, from := range []Bucket{b, direct} {
			got, _, err := ReadAll(ctx, from, key)
			switch {
			case err == nil && !possible[string(got)]:
				t.Errorf("%s round %d: read %d bytes that nobody wrote", key, i, len(got))
			case errors.Is(err, ErrNotFound) && len(possible) == 1 && i > 0:
				t.Errorf("%s round %d: %v", key, i, err)
			case err != nil && from == direct && !errors.Is(err, ErrNotFound):
				t.Errorf("%s round %d: %v", key, i, err)
			}
		}
	}
}

// TestS3Listings compares listings over many small pages, some of which fail,
// with those of a folder.
func TestS3Listings(t *testing.T) {
	t.Parallel()
	b, direct, p := openFaulty(t, time.Minute)
	folder := openFolder(t, t.TempDir())
	rng := rand.New(rand.NewPCG(3, 4))
	names := []string{"a", "a.", "a0", "b", "b-", "c"}
	prefixes := map[Key]bool{"": true}
	for range 60 {
		var key Key
		for range 1 + rng.IntN(3) {
			key = key.Join(names[rng.IntN(len(names))])
		}
		key += "-o" // no folder ends so
		put(t, direct, key, "x")
		put(t, folder, key, "x")
		for i := range key {
			if key[i] == '/' {
				prefixes[key[:i+1]] = true
			}
		}
	}
	n := 0
	p.Plan(func(*http.Request) buckettest.Fault {
		n++
		return []buckettest.Fault{buckettest.Pass, buckettest.Truncate, buckettest.Pass, buckettest.Refuse, buckettest.Pass}[n%5]
	})
	for prefix := range prefixes {
		for _, recursive := range []bool{true, false} {
			require.Equal(t, list(t, folder, prefix, recursive), list(t, b, prefix, recursive), "%q %v", prefix, recursive)
		}
	}
}

func TestS3ClearErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*S3Config)
		want   string
	}{
		"no bucket":    {func(c *S3Config) { c.Bucket = "not-there" }, "create it"},
		"wrong key id": {func(c *S3Config) { c.AccessKeyID = "nobody" }, "access_key_id"},
		"wrong secret": {func(c *S3Config) { c.SecretAccessKey = "guessed-secret" }, "secret_access_key"},
		"no TLS there": {func(c *S3Config) { c.Insecure = false }, "HTTPS client"},
		"nobody there": {func(c *S3Config) { c.Endpoint = "127.0.0.1:1" }, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := s3Config(t)
			c.change(&cfg)
			bounds := defaultS3Bounds()
			bounds.backoff = time.Millisecond
			b := openS3(t, cfg, bounds)
			_, _, getErr := b.Get(t.Context(), "k")
			_, putErr := putIf(b, "k", "x", Condition{IfAbsent: true})
			_, matchErr := putIf(b, "k", "x", Condition{IfMatch: "x"})
			_, statErr := b.Stat(t.Context(), "k")
			var listErr error
			for _, err := range b.List(t.Context(), "", true) {
				listErr = err
			}
			for operation, err := range map[string]error{"get": getErr, "put": putErr, "match": matchErr, "stat": statErr, "list": listErr, "delete": b.Delete(t.Context(), "k")} {
				require.Error(t, err, operation)
				require.NotErrorIs(t, err, ErrNotFound, operation)
				require.NotErrorIs(t, err, ErrPrecondition, operation)
				require.ErrorContains(t, err, cfg.Bucket, operation)
				require.ErrorContains(t, err, cfg.Endpoint, operation)
				if operation != "stat" { // the answer to HEAD has no text
					require.ErrorContains(t, err, c.want, operation)
				}
				require.NotContains(t, err.Error(), string(cfg.SecretAccessKey), operation)
			}
		})
	}
}
