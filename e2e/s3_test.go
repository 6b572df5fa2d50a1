package e2e

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/bucket/buckettest"
)

// newPlace is a place in the S3 server that nobody else uses.
func newPlace(t testing.TB) bucket.S3Config {
	t.Helper()
	return bucket.S3Config{
		Endpoint:        s3.Addr(t),
		Bucket:          buckettest.Bucket,
		AccessKeyID:     buckettest.AccessKeyID,
		SecretAccessKey: buckettest.SecretAccessKey,
		Insecure:        true,
		Prefix:          "e2e/" + rand.Text(),
	}
}

// startOver starts hearth over S3 at an address: the server's, or a proxy's.
func startOver(t testing.TB, place bucket.S3Config, addr string, set ...string) *hearth {
	t.Helper()
	return startHearth(t, append([]string{
		"bucket.type=s3",
		"bucket.s3.endpoint=" + addr,
		"bucket.s3.bucket=" + place.Bucket,
		"bucket.s3.access_key_id=" + place.AccessKeyID,
		"bucket.s3.secret_access_key=" + string(place.SecretAccessKey),
		"bucket.s3.insecure=true",
		"bucket.s3.prefix=" + place.Prefix,
		"limits.tenants.own={own_head: true}",
	}, set...)...)
}

// checkBucket looks into the bucket itself, past hearth and proxy: the blocks
// that are listed are whole, and those that are not are leftovers. Blocks of
// hours that are over are compacted meanwhile: between two looks, or a block and
// its place in the list.
func checkBucket(t *testing.T, place bucket.S3Config) {
	t.Helper()
	b, err := bucket.New(bucket.Config{Type: bucket.TypeS3, S3: place}, "", slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(t, err)
	defer func() { require.NoError(t, b.(io.Closer).Close()) }()
	for _, home := range []bucket.Key{bucket.PoolHome, bucket.TenantHome("own")} {
		until(t, patience, "a list of all blocks of "+string(home), func() error {
			return checkHome(t, b, home)
		})
	}
}

// checkHome says what a home's list of blocks, or one of the blocks, lacks.
// A list that is broken or not there is so at no moment.
func checkHome(t *testing.T, b bucket.Bucket, home bucket.Key) error {
	t.Helper()
	list, _, err := bucket.ReadIndex(t.Context(), b, home)
	require.NoError(t, err)
	require.Empty(t, list.Rebuilt, home)
	if len(list.Blocks) == 0 {
		return errors.New("no block is listed")
	}
	for _, x := range list.Blocks {
		if err := whole(t.Context(), b, home, x.ID); err != nil {
			return err
		}
	}
	unlisted, err := bucket.FindUnlisted(t.Context(), b, home, list)
	if err != nil {
		return err
	}
	for _, u := range unlisted {
		// What was made by a compaction that was broken off is made again, and
		// an upload that was may be tried again under another name.
		if u.Meta != nil && u.Meta.Thanos.Source != "hearth-compactor" {
			return fmt.Errorf("block %s is there and not listed", u.ID)
		}
	}
	return nil
}

// whole says what part of a block is missing.
func whole(ctx context.Context, b bucket.Bucket, home bucket.Key, id ulid.ULID) error {
	meta, err := bucket.ReadMeta(ctx, b, home, id)
	if err != nil {
		return err
	}
	for _, f := range meta.Thanos.Files {
		obj, err := b.Stat(ctx, bucket.BlockKey(home, id, f.RelPath))
		if err != nil {
			return err
		}
		if f.RelPath != bucket.MetaFile && obj.Size != f.SizeBytes {
			return fmt.Errorf("%s has %d bytes instead of %d", obj.Key, obj.Size, f.SizeBytes)
		}
	}
	return nil
}

// outage is a way in which a bucket fails.
type outage struct {
	name  string
	begin func(*buckettest.Proxy)

	away    bool // nobody answers at its address
	lasting bool // nothing that a query needs gets through
	silent  bool // to find that out takes a minute, since no answer comes
}

func (o outage) end(p *buckettest.Proxy) {
	p.Always(buckettest.Pass)
	switch {
	case o.away:
		p.Return()
	case o.silent && !long: // else it takes as long as a connection may be silent
		p.Break()
	}
}

// outages are the ways to fail that differ most, or all there are.
func outages(t testing.TB) []outage {
	always := func(f buckettest.Fault, o outage) outage {
		o.name = string(f)
		o.begin = func(p *buckettest.Proxy) { p.Always(f) }
		return o
	}
	some := []outage{
		{name: "away", begin: (*buckettest.Proxy).Leave, away: true, lasting: true},
		{name: "storm", begin: storm(newRand(t, uint64(time.Now().UnixNano())))},
		always(buckettest.Hang, outage{lasting: true, silent: true}),
	}
	if !long {
		return some
	}
	return append(some,
		always(buckettest.Refuse, outage{lasting: true}),
		always(buckettest.SlowDown, outage{lasting: true}),
		always(buckettest.LoseAnswer, outage{lasting: true}),
		always(buckettest.ResetBefore, outage{lasting: true}),
		always(buckettest.ResetAfter, outage{lasting: true}),
		always(buckettest.BadGateway, outage{lasting: true}),
		always(buckettest.EarlyRefusal, outage{lasting: true}),
		always(buckettest.HangInBody, outage{lasting: true, silent: true}),
		always(buckettest.Truncate, outage{}),
		always(buckettest.TruncateEnd, outage{}),
		always(buckettest.Dribble, outage{}),
		always(buckettest.Slow, outage{}),
	)
}

// storm has most requests go wrong, each in another way.
func storm(rnd *mathrand.Rand) func(*buckettest.Proxy) {
	faults := slices.DeleteFunc(buckettest.Failures(), func(f buckettest.Fault) bool {
		return !long && (f == buckettest.Hang || f == buckettest.HangInBody)
	})
	return func(p *buckettest.Proxy) {
		p.Plan(func(*http.Request) buckettest.Fault {
			if rnd.IntN(4) == 0 {
				return buckettest.Pass
			}
			return faults[rnd.IntN(len(faults))]
		})
	}
}
