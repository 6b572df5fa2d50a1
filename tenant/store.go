package tenant

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/hearth-metrics/hearth/bucket"
)

const (
	readTimeout  = 30 * time.Second
	readParallel = 8
	maxTries     = 20 // of a change that others were faster than
)

// readAll brings every shard up to date. One list says which have changed.
func (r *Registry) readAll(ctx context.Context) error {
	etags, err := r.list(ctx)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(readParallel)
	for n := range shards {
		have := r.shards[n].Load()
		if have.etag != etags[shardKey(n)] || have.etag == "" && have.version > 0 { // a copy from disk, of what is not there
			g.Go(func() error { return r.refresh(ctx, n) })
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	r.known.Store(true)
	return nil
}

// list returns the ETags of the shards that there are.
func (r *Registry) list(ctx context.Context) (map[bucket.Key]string, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	etags := map[bucket.Key]string{}
	for o, err := range r.bucket.List(ctx, registryHome.Folder(), false) {
		if err != nil {
			return nil, fmt.Errorf("list %s: %w", registryHome, err)
		}
		etags[o.Key] = o.ETag
	}
	return etags, nil
}

// refresh reads a shard if it is another one than the one known.
func (r *Registry) refresh(ctx context.Context, n int) error {
	r.changing[n].Lock()
	defer r.changing[n].Unlock()
	_, err := r.refreshLocked(ctx, n)
	return err
}

// reread reads a shard that another process has changed.
func (r *Registry) reread(ctx context.Context, n int) error {
	r.changing[n].Lock()
	defer r.changing[n].Unlock()
	_, err := r.readLocked(ctx, n)
	return err
}

// refreshLocked also returns the object, nil if it has not changed.
func (r *Registry) refreshLocked(ctx context.Context, n int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	have := r.shards[n].Load()
	if have.etag != "" {
		if stale, err := r.stale(ctx, n, have); err != nil || !stale {
			return nil, err
		}
	}
	return r.readLocked(ctx, n)
}

func (r *Registry) readLocked(ctx context.Context, n int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	s, raw, err := r.read(ctx, n)
	if err != nil {
		return nil, err
	}
	r.publish(n, s, raw)
	return raw, nil
}

// read returns a shard as it is in the bucket; one that is not there is empty.
func (r *Registry) read(ctx context.Context, n int) (*shard, []byte, error) {
	body, o, err := r.bucket.Get(ctx, shardKey(n))
	if errors.Is(err, bucket.ErrNotFound) {
		return newShard(), nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", shardKey(n), err)
	}
	defer body.Close()
	raw, err := io.ReadAll(body)
	if err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", shardKey(n), err)
	}
	s, err := decodeShard(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("decode %s: %w", shardKey(n), err)
	}
	s.etag = o.ETag
	return s, raw, nil
}

// publish makes a shard what lookups see. raw is its object, nil for none.
func (r *Registry) publish(n int, s *shard, raw []byte) {
	r.shards[n].Store(s)
	if n == sharedShard {
		r.plans.Store(r.planLimits(s.plans))
	}
	if raw != nil {
		r.keepCopy(n, raw)
	}
}

// keepCopy puts a copy of an object on disk. It is there for the next start, so
// that a failure is not worth more than a line in the log.
func (r *Registry) keepCopy(n int, raw []byte) {
	path := filepath.Join(r.dir, shardName(n))
	err := os.MkdirAll(r.dir, 0o700)
	if err == nil {
		err = os.WriteFile(path+".tmp", raw, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".tmp", path)
	}
	if err != nil {
		r.logger.Debug("copy of the registry not written", "err", err)
	}
}

// readCopies takes what the last run has left on disk, and says whether there
// was something. ETags are not known, so that the bucket's objects replace it.
func (r *Registry) readCopies() bool {
	found := false
	for n := range shards {
		if r.shards[n].Load().etag != "" {
			found = true
			continue
		}
		raw, err := os.ReadFile(filepath.Join(r.dir, shardName(n)))
		if err != nil {
			continue
		}
		s, err := decodeShard(raw)
		if err != nil {
			r.logger.Warn("copy of the registry not read", "file", shardName(n), "err", err)
			continue
		}
		found = true
		r.shards[n].Store(s)
		if n == sharedShard {
			r.plans.Store(r.planLimits(s.plans))
		}
	}
	if found {
		r.known.Store(true)
	}
	return found
}

// draft is a shard that is being changed.
type draft struct {
	*shard
	at time.Time
}

// change takes a shard, calls f, and stores what f has made of it if nobody
// else has changed the shard meanwhile, or else starts again. f may so be
// called several times, each time with a fresh draft; its error ends the
// change. When change returns, this process sees it, and the others hear of it.
func (r *Registry) change(ctx context.Context, n int, f func(*draft) error) error {
	r.changing[n].Lock()
	defer r.changing[n].Unlock()
	if have := r.shards[n].Load(); have.etag == "" { // nothing, or a copy from disk
		if _, err := r.refreshLocked(ctx, n); err != nil {
			return err
		}
	}
	for try := range maxTries {
		tried, err := r.tryChange(ctx, n, f)
		if !errors.Is(err, bucket.ErrPrecondition) {
			return err
		}
		if err := pause(ctx, min(10*time.Millisecond<<min(try, 10), time.Second)); err != nil {
			return err
		}
		found, err := r.refreshLocked(ctx, n)
		if err != nil {
			return err
		}
		if tried != nil && bytes.Equal(tried, found) {
			// It was us: the bucket had stored it, the answer was lost, and what
			// sent the request again met itself.
			r.tell(ctx, n, r.shards[n].Load().version)
			return nil
		}
	}
	return fmt.Errorf("change %s: others were faster %d times: %w", shardKey(n), maxTries, bucket.ErrPrecondition)
}

// errNoChange is what f returns when all is as it should be already.
var errNoChange = errors.New("no change")

// tryChange starts from what is known here: that it is not the newest, the
// bucket tells. It returns the object that it has tried to store.
func (r *Registry) tryChange(ctx context.Context, n int, f func(*draft) error) ([]byte, error) {
	have := r.shards[n].Load()
	d := &draft{have.clone(), r.now().UTC()}
	d.version++
	if err := f(d); err != nil {
		// It is the answer to what is known here; is that what is there?
		if stale, staleErr := r.stale(ctx, n, have); staleErr != nil {
			return nil, staleErr
		} else if stale {
			return nil, bucket.ErrPrecondition
		}
		if errors.Is(err, errNoChange) {
			return nil, nil
		}
		return nil, err
	}
	if err := r.archive(ctx, n, d); err != nil {
		return nil, err
	}
	raw, err := d.encode()
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", shardKey(n), err)
	}
	cond := bucket.Condition{IfAbsent: have.etag == "", IfMatch: have.etag}
	if d.etag, err = r.bucket.Put(ctx, shardKey(n), bytes.NewReader(raw), int64(len(raw)), cond); err != nil {
		return raw, fmt.Errorf("store %s: %w", shardKey(n), err)
	}
	r.publish(n, d.shard, raw)
	r.tell(ctx, n, d.version)
	return raw, nil
}

// stale says whether the bucket has another shard than the one given.
func (r *Registry) stale(ctx context.Context, n int, have *shard) (bool, error) {
	o, err := r.bucket.Stat(ctx, shardKey(n))
	if errors.Is(err, bucket.ErrNotFound) {
		return have.etag != "", nil
	}
	if err != nil {
		return false, fmt.Errorf("look at %s: %w", shardKey(n), err)
	}
	return o.ETag != have.etag, nil
}

// pause waits between half of d and d, so that those who collided do not meet
// again.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d/2 + rand.N(d/2+1))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
