package bucket

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"
)

// DueFolder is the calendar of homes that will have something to be tidied up.
// Compactors look at hours that are past, so that a home where nothing happens
// costs no requests:
//
//	__hearth__/compactor/due/<hour, as 2006010215 in UTC>/<tenant>,<note>
//
// Each note is an object of its own, so that taking one off never takes
// another, made meanwhile, with it. No tenant's name has a comma.
const DueFolder = OwnHome + "/compactor/due"

const dueHour = "2006010215"

// NoteDue has compactors look at a tenant's own home in the hour of at, or
// soon after it. note tells the notes of the same tenant and hour apart.
func NoteDue(ctx context.Context, b Bucket, tenant string, at time.Time, note string) error {
	key := DueFolder.Join(at.UTC().Format(dueHour), tenant+","+note)
	if _, err := b.Put(ctx, key, bytes.NewReader(nil), 0, Condition{}); err != nil {
		return fmt.Errorf("note that %s is due: %w", tenant, err)
	}
	return nil
}

// ListDue finds the notes of all hours up to now, by tenant.
func ListDue(ctx context.Context, b Bucket, now time.Time) (map[string][]Key, error) {
	due := map[string][]Key{}
	last := now.UTC().Format(dueHour)
	for hour, err := range b.List(ctx, DueFolder.Folder(), false) {
		if err != nil {
			return nil, fmt.Errorf("list what is due: %w", err)
		}
		if hour.Key.Base() > last {
			break
		}
		if !strings.HasSuffix(string(hour.Key), "/") {
			continue
		}
		for note, err := range b.List(ctx, hour.Key, false) {
			if err != nil {
				return nil, fmt.Errorf("list what is due: %w", err)
			}
			if tenant, _, ok := strings.Cut(note.Key.Base(), ","); ok {
				due[tenant] = append(due[tenant], note.Key)
			}
		}
	}
	return due, nil
}
