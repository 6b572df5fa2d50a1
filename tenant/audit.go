package tenant

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/hearth-metrics/hearth/bucket"
)

// AuditEntry says who has changed what, and when. It is in the same write as
// the change, so there is no change without it.
type AuditEntry struct {
	ID     string    `json:"id"` // shard, version, number
	At     time.Time `json:"at"`
	By     string    `json:"by"`               // id of a token, or where the request came from
	Action string    `json:"action"`           // for example tenant.create
	Tenant ID        `json:"tenant,omitempty"` // whose
	Object string    `json:"object,omitempty"` // id of a token, name of a plan
	Detail string    `json:"detail,omitempty"` // fields that were changed
}

const (
	auditHome  = bucket.OwnHome + "/audit"
	auditMonth = "2006-01"

	auditKept    = 100 // entries that stay in a shard
	auditInFirst = 50  // entries that go to an object of their own when there are more
)

type actorKey struct{}

// WithActor returns a context that names who makes changes.
func WithActor(ctx context.Context, by string) context.Context {
	return context.WithValue(ctx, actorKey{}, by)
}

func actor(ctx context.Context) string {
	if by, ok := ctx.Value(actorKey{}).(string); ok {
		return by
	}
	return "hearth"
}

// note adds an entry to the change.
func (d *draft) note(ctx context.Context, n int, e AuditEntry) {
	e.ID = fmt.Sprintf("%02x-%d-%d", n, d.version, len(d.audit))
	e.At, e.By = d.at, actor(ctx)
	d.audit = append(d.audit, e)
}

// archive moves the oldest entries of a draft to an object of their own. If the
// draft is then not stored, they are in both places, and are read once.
func (r *Registry) archive(ctx context.Context, n int, d *draft) error {
	if len(d.audit) <= auditKept {
		return nil
	}
	old := d.audit[:auditInFirst]
	raw, err := encodeGzip(old)
	if err != nil {
		return fmt.Errorf("archive the audit: %w", err)
	}
	key := auditHome.Join(old[0].At.Format(auditMonth), fmt.Sprintf("%02x-%d.json.gz", n, d.version))
	if _, err := r.bucket.Put(ctx, key, bytes.NewReader(raw), int64(len(raw)), bucket.Condition{}); err != nil {
		return fmt.Errorf("archive the audit: %w", err)
	}
	d.audit = slices.Clone(d.audit[auditInFirst:])
	return nil
}

// Audit returns the entries of a tenant (of all with ""), from one time to
// another, newest first.
func (r *Registry) Audit(ctx context.Context, id ID, from, to time.Time) ([]AuditEntry, error) {
	var found []AuditEntry
	for n := range r.shards {
		found = append(found, r.shards[n].Load().audit...)
	}
	for o, err := range r.bucket.List(ctx, auditHome.Folder(), true) {
		if err != nil {
			return nil, fmt.Errorf("list the audit: %w", err)
		}
		// A file is named for the month of its first entry; its last may be of
		// any later month.
		month := strings.Split(string(o.Key), "/")[2]
		if first, err := time.Parse(auditMonth, month); err != nil || first.After(to) {
			continue
		}
		if o.Modified.Before(from) {
			continue
		}
		old, err := r.readAudit(ctx, o.Key)
		if err != nil {
			return nil, err
		}
		found = append(found, old...)
	}
	found = slices.DeleteFunc(found, func(e AuditEntry) bool {
		return (id != "" && e.Tenant != id) || e.At.Before(from) || e.At.After(to)
	})
	slices.SortFunc(found, func(a, b AuditEntry) int {
		if c := b.At.Compare(a.At); c != 0 {
			return c
		}
		return strings.Compare(b.ID, a.ID)
	})
	return slices.CompactFunc(found, func(a, b AuditEntry) bool { return a.ID == b.ID }), nil
}

func (r *Registry) readAudit(ctx context.Context, key bucket.Key) ([]AuditEntry, error) {
	body, _, err := r.bucket.Get(ctx, key)
	if errors.Is(err, bucket.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the audit: %w", err)
	}
	defer body.Close()
	raw, err := io.ReadAll(body)
	if err != nil {
		return nil, fmt.Errorf("read the audit: %w", err)
	}
	var entries []AuditEntry
	if err := decodeGzip(raw, &entries); err != nil {
		return nil, fmt.Errorf("decode %s: %w", key, err)
	}
	return entries, nil
}
