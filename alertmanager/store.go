package alertmanager

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
)

// UserConfig is a tenant's configuration as clients of Cortex and Mimir send it.
type UserConfig struct {
	TemplateFiles map[string]string `json:"template_files" yaml:"template_files"`
	Config        string            `json:"alertmanager_config" yaml:"alertmanager_config"`
}

// Version is a configuration that a tenant has had.
type Version struct {
	Number int       `json:"version"`
	At     time.Time `json:"at"`
	UserConfig
}

// store keeps configurations in the bucket:
//
//	__hearth__/alertmanager/config/<tenant>.json            the one that counts
//	__hearth__/alertmanager/history/<tenant>/<number>.json  it, and those before
type store struct{ bucket bucket.Bucket }

var (
	home       = bucket.OwnHome.Join("alertmanager")
	configHome = home.Join("config")
)

func configKey(id tenant.ID) bucket.Key { return configHome.Join(string(id) + ".json") }

func historyHome(id tenant.ID) bucket.Key { return home.Join("history", string(id)) }

func versionKey(id tenant.ID, n int) bucket.Key {
	return historyHome(id).Join(fmt.Sprintf("%08d.json", n)) // in the order of numbers
}

// maxHistory is how many versions are kept.
const maxHistory = 10

// list returns the tenants that have a configuration, with its ETag.
func (s store) list(ctx context.Context) (map[tenant.ID]string, error) {
	found := map[tenant.ID]string{}
	for o, err := range s.bucket.List(ctx, configHome.Folder(), false) {
		if err != nil {
			return nil, fmt.Errorf("list alertmanager configurations: %w", err)
		}
		name, ok := strings.CutSuffix(o.Key.Base(), ".json")
		if id, err := tenant.ParseID(name); ok && err == nil {
			found[id] = o.ETag
		}
	}
	return found, nil
}

// current is a tenant's configuration; bucket.ErrNotFound where there is none.
func (s store) current(ctx context.Context, id tenant.ID) (Version, string, error) {
	var v Version
	etag, err := s.read(ctx, configKey(id), &v)
	return v, etag, err
}

func (s store) version(ctx context.Context, id tenant.ID, n int) (v Version, err error) {
	_, err = s.read(ctx, versionKey(id, n), &v)
	return v, err
}

func (s store) read(ctx context.Context, key bucket.Key, into any) (etag string, err error) {
	r, o, err := s.bucket.Get(ctx, key)
	if err != nil {
		return "", err
	}
	data, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close()); err != nil {
		return "", fmt.Errorf("read %s: %w", key, err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		return "", fmt.Errorf("read %s: %w", key, err)
	}
	return o.ETag, nil
}

func (s store) write(ctx context.Context, key bucket.Key, value any, cond bucket.Condition) error {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	_, err = s.bucket.Put(ctx, key, bytes.NewReader(data), int64(len(data)), cond)
	return err
}

// maxConflicts is how often a write starts again because of another.
const maxConflicts = 5

// put makes a configuration the one that counts. The history has it first, so
// that every configuration that ever counted is there.
func (s store) put(ctx context.Context, id tenant.ID, c UserConfig) (err error) {
	for range maxConflicts {
		if err = s.tryPut(ctx, id, c); !errors.Is(err, bucket.ErrPrecondition) {
			return err
		}
	}
	return err
}

func (s store) tryPut(ctx context.Context, id tenant.ID, c UserConfig) error {
	_, etag, err := s.current(ctx, id)
	cond := bucket.Condition{IfMatch: etag}
	if errors.Is(err, bucket.ErrNotFound) {
		cond, err = bucket.Condition{IfAbsent: true}, nil
	}
	if err != nil {
		return err
	}
	numbers, err := s.numbers(ctx, id)
	if err != nil {
		return err
	}
	v := Version{Number: 1, At: time.Now().UTC(), UserConfig: c}
	if len(numbers) > 0 {
		v.Number = numbers[len(numbers)-1] + 1
	}
	if err := s.write(ctx, versionKey(id, v.Number), v, bucket.Condition{IfAbsent: true}); err != nil {
		return err
	}
	if err := s.write(ctx, configKey(id), v, cond); err != nil {
		return err
	}
	for i := 0; i < len(numbers)+1-maxHistory; i++ {
		_ = s.bucket.Delete(ctx, versionKey(id, numbers[i])) // the next write tries again
	}
	return nil
}

// numbers lists the versions that are kept, oldest first.
func (s store) numbers(ctx context.Context, id tenant.ID) (all []int, err error) {
	for o, err := range s.bucket.List(ctx, historyHome(id).Folder(), false) {
		if err != nil {
			return nil, fmt.Errorf("list versions: %w", err)
		}
		if n, err := strconv.Atoi(strings.TrimSuffix(o.Key.Base(), ".json")); err == nil {
			all = append(all, n)
		}
	}
	return all, nil
}

// remove deletes a tenant's configuration. Its history stays, to go back to.
func (s store) remove(ctx context.Context, id tenant.ID) error {
	return s.bucket.Delete(ctx, configKey(id))
}

// Forget removes all that a bucket has of a tenant's Alertmanager.
func Forget(ctx context.Context, b bucket.Bucket, id tenant.ID) error {
	return store{b}.forget(ctx, id)
}

// forget deletes everything that is kept of a tenant. Whoever saves its state
// meanwhile looks afterwards whether anything else is left, so the state goes
// last.
func (s store) forget(ctx context.Context, id tenant.ID) error {
	errs := []error{s.remove(ctx, id)}
	numbers, err := s.numbers(ctx, id)
	errs = append(errs, err)
	for _, n := range numbers {
		errs = append(errs, s.bucket.Delete(ctx, versionKey(id, n)))
	}
	return errors.Join(append(errs, s.bucket.Delete(ctx, stateKey(id)))...)
}

// forgotten says whether nothing is kept of a tenant that has had a
// configuration. One that was only removed has a history.
func (s store) forgotten(ctx context.Context, id tenant.ID) (bool, error) {
	if _, err := s.bucket.Stat(ctx, configKey(id)); !errors.Is(err, bucket.ErrNotFound) {
		return false, err
	}
	numbers, err := s.numbers(ctx, id)
	return len(numbers) == 0 && err == nil, err
}
