package compactor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant"
)

// homesKey has the tenants whose homes compactors know of.
const homesKey = ownFolder + "/homes.json"

// findHomesEvery is how often the bucket's first level is listed, a request for
// each thousand homes.
const findHomesEvery = 24 * time.Hour

// findHomes looks for homes that were put there by other systems, which note
// nothing in our calendar, and has them visited. From then on a home notes
// itself when it is due.
func (c *Compactor) findHomes(ctx context.Context, now time.Time) error {
	if now.Sub(c.homes) < findHomesEvery || !c.owns(string(homesKey)) {
		return nil
	}
	known, err := c.knownHomes(ctx)
	if err != nil {
		return err
	}
	there, found := []tenant.ID{}, 0
	for obj, err := range c.bucket.List(ctx, "", false) {
		if err != nil {
			return fmt.Errorf("list homes: %w", err)
		}
		id, err := tenant.ParseID(obj.Key.Base())
		if err != nil || !strings.HasSuffix(string(obj.Key), "/") {
			continue
		}
		there = append(there, id)
		if known[id] {
			continue
		}
		if err := bucket.NoteDue(ctx, c.bucket, string(id), now, newNote()); err != nil {
			return err
		}
		found++
	}
	c.homes = now
	if found == 0 && len(there) == len(known) {
		return nil
	}
	return putJSON(ctx, c.bucket, homesKey, there)
}

func (c *Compactor) knownHomes(ctx context.Context) (map[tenant.ID]bool, error) {
	content, _, err := bucket.ReadAll(ctx, c.bucket, homesKey)
	if errors.Is(err, bucket.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read known homes: %w", err)
	}
	var ids []tenant.ID
	if err := json.Unmarshal(content, &ids); err != nil {
		c.logger.Warn("list of known homes is broken, all are looked at", "err", err)
		return nil, nil
	}
	known := map[tenant.ID]bool{}
	for _, id := range ids {
		known[id] = true
	}
	return known, nil
}
