package tenant

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
)

// dyingBucket lets so many requests pass; then the process that uses it is
// dead: nothing that it asks for is done, or, of the first, the answer is not
// heard.
type dyingBucket struct {
	bucket.Bucket
	left     int
	answered bool // the last request is done, and its answer lost
}

// dies says whether a request is not done, and whether its answer is not heard.
func (b *dyingBucket) dies() (before, after bool) {
	b.left--
	return b.left < 0 && (!b.answered || b.left < -1), b.left < 0
}

func (b *dyingBucket) Get(ctx context.Context, key bucket.Key) (io.ReadCloser, bucket.Object, error) {
	if _, dead := b.dies(); dead {
		return nil, bucket.Object{}, errAway
	}
	return b.Bucket.Get(ctx, key)
}

func (b *dyingBucket) Stat(ctx context.Context, key bucket.Key) (bucket.Object, error) {
	if _, dead := b.dies(); dead {
		return bucket.Object{}, errAway
	}
	return b.Bucket.Stat(ctx, key)
}

func (b *dyingBucket) Put(ctx context.Context, key bucket.Key, r io.ReadSeeker, size int64, cond bucket.Condition) (string, error) {
	before, after := b.dies()
	if before {
		return "", errAway
	}
	etag, err := b.Bucket.Put(ctx, key, r, size, cond)
	if after {
		return "", errAway
	}
	return etag, err
}

// A tenant's life, with a crash between any two requests to the bucket: after
// each there is a whole tenant with its tokens or none, the audit says which,
// and the next process goes on where the last one ended.
func TestCrashBetweenAnyTwoSteps(t *testing.T) {
	ctx := context.Background()
	steps := func(r *Registry) error {
		_, _, _, err := r.CreateTenant(ctx, Tenant{ID: "acme"}, DataScopes)
		if err != nil {
			return err
		}
		if len(r.Tokens(Owner{Tenant: "acme"})) < 2 {
			if _, _, err = r.CreateToken(ctx, Token{Tenant: "acme", Scopes: DataScopes}); err != nil {
				return err
			}
		}
		if _, err = r.DeleteTenant(ctx, "acme", Any); err != nil {
			return err
		}
		return r.Removed(ctx, "acme")
	}
	crashes := 0
	for _, answered := range []bool{false, true} {
		for after := 0; ; after++ {
			w := newWorld(t)
			w.cfg.DeleteDelay = 0
			dying := &dyingBucket{Bucket: w.bucket.Bucket, left: after, answered: answered}
			r, err := New(w.cfg, Options{Limits: w.limits, Bucket: dying, DataDir: t.TempDir()}, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
			require.NoError(t, err)
			err = steps(r)
			died := fmt.Sprintf("after %d requests, the last one done: %v", after, answered)
			seen := w.process()
			have := checkWhole(t, seen, died)
			if err == nil {
				require.False(t, have, died)
				break
			}
			crashes++
			finish(t, seen, died)
		}
	}
	require.GreaterOrEqual(t, crashes, 10)
}

// checkWhole says whether the tenant is there.
func checkWhole(t *testing.T, r *Registry, died string) bool {
	t.Helper()
	_, have := r.Tenant("acme")
	tokens := r.Tokens(Owner{All: true})
	require.Equal(t, have, len(tokens) > 0, died)
	for _, token := range tokens {
		require.Equal(t, ID("acme"), token.Tenant, died)
	}
	audit, err := r.Audit(context.Background(), "", time.Time{}, time.Now().Add(time.Hour))
	require.NoError(t, err)
	made, removed := 0, 0
	for _, e := range audit {
		switch e.Action {
		case "tenant.create":
			made++
		case "tenant.removed":
			removed++
		}
	}
	require.Equal(t, have, made > removed, "%s: %v", died, audit)
	return have
}

// finish is what operators and the compactor do after the crash.
func finish(t *testing.T, r *Registry, died string) {
	t.Helper()
	ctx := context.Background()
	if _, have := r.Tenant("acme"); have {
		_, err := r.DeleteTenant(ctx, "acme", Any)
		require.NoError(t, err, died)
		require.Contains(t, r.Doomed(), ID("acme"), died)
	}
	require.NoError(t, r.Removed(ctx, "acme"), died)
	require.False(t, checkWhole(t, r, died), died)
	_, token, _, err := r.CreateTenant(ctx, Tenant{ID: "acme"}, DataScopes)
	require.NoError(t, err, died)
	require.NotNil(t, token, "the name is free again: %s", died)
}
