package ruler

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"iter"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

const (
	rulesHome   = bucket.OwnHome + "/rules"
	historyHome = bucket.OwnHome + "/rules-history"
	extension   = ".yaml.gz"

	keptVersions = 20       // that were replaced, of each tenant
	maxDocument  = 64 << 20 // bytes, unpacked: more is no document of ours
	writeTries   = 10
)

// store is the rules of all tenants in the bucket. Safe for concurrent use.
type store struct {
	bucket bucket.Bucket
	now    func() time.Time

	// Changes of one tenant wait for each other here; those of other processes
	// are found out by conditional writes.
	seed  maphash.Seed
	turns [64]sync.Mutex
}

func newStore(b bucket.Bucket) *store {
	return &store{bucket: b, now: time.Now, seed: maphash.MakeSeed()}
}

func rulesKey(id tenant.ID) bucket.Key { return rulesHome.Join(string(id) + extension) }

func versionKey(id tenant.ID, version int) bucket.Key {
	return historyHome.Join(string(id), fmt.Sprintf("%010d", version)+extension)
}

// get reads a tenant's rules. Where there are none it returns an empty document
// and no etag.
func (s *store) get(ctx context.Context, id tenant.ID) (Document, string, error) {
	d, etag, err := s.read(ctx, rulesKey(id))
	if errors.Is(err, bucket.ErrNotFound) {
		return Document{}, "", nil
	}
	return d, etag, err
}

func (s *store) read(ctx context.Context, key bucket.Key) (d Document, etag string, err error) {
	r, o, err := s.bucket.Get(ctx, key)
	if err != nil {
		return Document{}, "", fmt.Errorf("read rules: %w", err)
	}
	defer r.Close()
	text, err := gzip.NewReader(r)
	if err != nil {
		return Document{}, "", fmt.Errorf("read rules %s: %w", key, err)
	}
	if err := yaml.NewDecoder(io.LimitReader(text, maxDocument)).Decode(&d); err != nil {
		return Document{}, "", fmt.Errorf("read rules %s: %w", key, err)
	}
	return d, o.ETag, nil
}

func (s *store) put(ctx context.Context, key bucket.Key, d *Document, cond bucket.Condition) error {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if err := errors.Join(yaml.NewEncoder(z).Encode(d), z.Close()); err != nil {
		return fmt.Errorf("write rules %s: %w", key, err)
	}
	_, err := s.bucket.Put(ctx, key, bytes.NewReader(b.Bytes()), int64(b.Len()), cond)
	if err != nil {
		return fmt.Errorf("write rules: %w", err)
	}
	return nil
}

// change lets f change a tenant's rules, again where somebody else has done so
// meanwhile. f says whether there is anything to write.
func (s *store) change(ctx context.Context, id tenant.ID, f func(*Document) (bool, error)) error {
	turn := &s.turns[maphash.String(s.seed, string(id))%uint64(len(s.turns))]
	turn.Lock()
	defer turn.Unlock()
	for range writeTries {
		was, etag, err := s.get(ctx, id)
		if err != nil {
			return err
		}
		d := was
		d.Namespaces = map[string][]Group{}
		for ns, gs := range was.Namespaces {
			d.Namespaces[ns] = gs
		}
		if changed, err := f(&d); err != nil || !changed {
			return err
		}
		err = s.replace(ctx, id, &was, &d, etag)
		if !errors.Is(err, bucket.ErrPrecondition) {
			return err
		}
		select {
		case <-time.After(time.Duration(rand.Int64N(int64(100 * time.Millisecond)))):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	err := wire.Errorf(wire.Unavailable, "err-rules-busy", "these rules are being changed by others all the time, retry in a moment")
	err.RetryAfter = time.Second
	return err
}

// replace keeps the version that was, then writes the next one. Whoever loses
// the race has kept what the winner keeps too.
func (s *store) replace(ctx context.Context, id tenant.ID, was, d *Document, etag string) error {
	cond := bucket.Condition{IfAbsent: true}
	if etag != "" {
		cond = bucket.Condition{IfMatch: etag}
		if err := s.put(ctx, versionKey(id, was.Version), was, bucket.Condition{}); err != nil {
			return err
		}
	}
	d.Version, d.At = was.Version+1, s.now().UTC().Truncate(time.Millisecond)
	if err := s.put(ctx, rulesKey(id), d, cond); err != nil {
		return err
	}
	if old := was.Version - keptVersions; old > 0 {
		return s.bucket.Delete(ctx, versionKey(id, old))
	}
	return nil
}

// remove forgets all rules of a tenant, the earlier ones too.
func (s *store) remove(ctx context.Context, id tenant.ID) error {
	if err := s.bucket.Delete(ctx, rulesKey(id)); err != nil {
		return err
	}
	for o, err := range s.bucket.List(ctx, historyHome.Join(string(id)).Folder(), true) {
		if err != nil {
			return err
		}
		if err := s.bucket.Delete(ctx, o.Key); err != nil {
			return err
		}
	}
	return nil
}

// Forget removes all that a bucket has of a tenant's rules.
func Forget(ctx context.Context, b bucket.Bucket, id tenant.ID) error {
	return newStore(b).remove(ctx, id)
}

// versions are those that were replaced, in order.
func (s *store) versions(ctx context.Context, id tenant.ID) ([]int, error) {
	var out []int
	for o, err := range s.bucket.List(ctx, historyHome.Join(string(id)).Folder(), false) {
		if err != nil {
			return nil, fmt.Errorf("list versions of rules: %w", err)
		}
		if n, err := strconv.Atoi(strings.TrimSuffix(o.Key.Base(), extension)); err == nil {
			out = append(out, n)
		}
	}
	return out, nil
}

// version reads one that was replaced.
func (s *store) version(ctx context.Context, id tenant.ID, n int) (Document, error) {
	d, _, err := s.read(ctx, versionKey(id, n))
	return d, err
}

// all yields the tenants that have rules, with what changes when these do.
func (s *store) all(ctx context.Context) iter.Seq2[tenantVersion, error] {
	return func(yield func(tenantVersion, error) bool) {
		for o, err := range s.bucket.List(ctx, rulesHome.Folder(), false) {
			if err != nil {
				yield(tenantVersion{}, fmt.Errorf("list rules: %w", err))
				return
			}
			id, err := tenant.ParseID(strings.TrimSuffix(o.Key.Base(), extension))
			if err == nil && !yield(tenantVersion{id, o.ETag}, nil) {
				return
			}
		}
	}
}

type tenantVersion struct {
	id   tenant.ID
	etag string
}
