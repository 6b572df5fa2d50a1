package bucket

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"
)

// markVersion is that of both marks, as Thanos and Mimir know them.
const markVersion = 1

// WriteDeletionMark says in the block's folder and among the home's markers
// that a block is to go, for those who do not read our index.
func WriteDeletionMark(ctx context.Context, b Bucket, home Key, id ulid.ULID, details string, at time.Time) error {
	return writeMark(ctx, b, home, id, DeletionMarkFile, struct {
		ID           ulid.ULID `json:"id"`
		Version      int       `json:"version"`
		Details      string    `json:"details,omitempty"`
		DeletionTime int64     `json:"deletion_time"`
	}{id, markVersion, details, at.Unix()})
}

// WriteNoCompactMark says in both places that compactions leave a block out.
func WriteNoCompactMark(ctx context.Context, b Bucket, home Key, id ulid.ULID, details string, at time.Time) error {
	return writeMark(ctx, b, home, id, NoCompactMarkFile, struct {
		ID      ulid.ULID `json:"id"`
		Version int       `json:"version"`
		Details string    `json:"details,omitempty"`
		At      int64     `json:"no_compact_time"`
		Reason  string    `json:"reason"` // one that Mimir knows
	}{id, markVersion, details, at.Unix(), "critical"})
}

// writeMark puts the mark that other systems' index is made from last.
func writeMark(ctx context.Context, b Bucket, home Key, id ulid.ULID, name string, mark any) error {
	content, err := json.Marshal(mark)
	if err != nil {
		return fmt.Errorf("mark block %s: %w", id, err)
	}
	for _, key := range []Key{BlockKey(home, id, name), MarkerKey(home, id, name)} {
		if _, err := b.Put(ctx, key, bytes.NewReader(content), int64(len(content)), Condition{}); err != nil {
			return fmt.Errorf("mark block %s: %w", id, err)
		}
	}
	return nil
}

// Markers is what the folder of markers says of a home's blocks.
type Markers struct {
	NoCompact map[ulid.ULID]bool
	Deletion  map[ulid.ULID]Key // where the mark is
	Tenant    bool              // the whole home is to go
}

// ReadMarkers lists a home's markers.
func ReadMarkers(ctx context.Context, b Bucket, home Key) (Markers, error) {
	m := Markers{NoCompact: map[ulid.ULID]bool{}, Deletion: map[ulid.ULID]Key{}}
	keys, err := listMarkers(ctx, b, home)
	if err != nil {
		return m, fmt.Errorf("list markers of %s: %w", home, err)
	}
	for _, key := range keys {
		if key == TenantDeletionKey(home) {
			m.Tenant = true
			continue
		}
		switch id, mark, ok := ParseMarker(key); {
		case ok && mark == NoCompactMarkFile:
			m.NoCompact[id] = true
		case ok && mark == DeletionMarkFile:
			m.Deletion[id] = key
		}
	}
	return m, nil
}

// ReadDeletionMark reads when a mark that ReadMarkers has found was made.
func ReadDeletionMark(ctx context.Context, b Bucket, id ulid.ULID, key Key) (time.Time, error) {
	mark, err := readDeletionMark(ctx, b, id, key)
	return time.Unix(mark.DeletionTime, 0), err
}

// TenantDeletionKey is where Cortex and Mimir say that a tenant is to go.
func TenantDeletionKey(home Key) Key { return home.Join(markersDir, "tenant-deletion-mark.json") }
