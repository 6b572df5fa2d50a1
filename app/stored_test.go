package app

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/tenant/meter"
)

// TestUsageOfPooledTenants has three processes with three copies of everything.
// What they tell of all tenants together is what is in the pool, once its first
// blocks are merged, and hour after hour.
func TestUsageOfPooledTenants(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		v := newVillage(t, 3, *dayTenants)
		defer v.stop()
		v.live(4*time.Hour + 50*time.Minute) // what was shipped at four is looked at, and the next hour not begun
		index, _, err := bucket.ReadIndex(t.Context(), v.bucket, bucket.PoolHome)
		require.NoError(t, err)
		var pool int64
		merged := false
		for _, b := range index.Blocks {
			if !index.Marked(b.ID) {
				pool += b.IndexSize + b.SegmentSizes[0]
				merged = merged || b.CompactionLevel > 1
			}
		}
		require.True(t, merged)
		require.Equal(t, pool, v.stored(t, time.Now()))

		time.Sleep(time.Hour) // nobody writes
		require.Positive(t, v.stored(t, time.Now()))
	})
}

// stored asks for the usage of each tenant in an hour, and adds up what they
// have stored.
func (v *village) stored(t *testing.T, at time.Time) (sum int64) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("/admin/v1/usage?from=%d&to=%d", at.Truncate(time.Hour).Unix(), at.Unix()), nil)
	w := httptest.NewRecorder()
	v.members[1].routes.ServeHTTP(w, r)
	require.Equal(t, http.StatusOK, w.Code, w.Body)
	var answer struct {
		Hours []meter.Hour `json:"hours"`
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &answer))
	require.Len(t, answer.Hours, *dayTenants)
	for _, h := range answer.Hours {
		require.Positive(t, h.BytesStored, h.Tenant)
		sum += h.BytesStored
	}
	return sum
}
