//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
)

// What tenants of the pool have stored is in their usage once their blocks are
// merged, and after a crash.
func TestUsageOfStoredBlocks(t *testing.T) {
	t.Parallel()
	h := startHearth(t, "compactor.interval=1s", "compactor.ranges=[2m,4m]", "compactor.wait=0s", "ingester.block_range=2m")
	b, err := bucket.New(bucket.DefaultConfig(), h.dir, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(t, err)
	begin := time.Now().Add(-time.Hour).Truncate(4 * time.Minute).UnixMilli()
	for n := range 4 {
		for k, tenant := range []string{"one", "two", "two"} {
			name := fmt.Sprintf(`m{n="%d"}`, k)
			h.push(protocols[0], tenant, floats(seriesLabels(t, name), begin+int64(n)*50_000, 1000, 1, 2, 3, 4, 5))
		}
		h.flush()
	}
	// merged is the bytes of the pool, when each range is one block.
	merged := func() (size int64, err error) {
		x, _, err := bucket.ReadIndex(t.Context(), b, bucket.PoolHome)
		if err != nil {
			return 0, err
		}
		ends := map[int64]bool{}
		for _, e := range x.Blocks {
			switch {
			case x.Marked(e.ID):
				continue
			case ends[e.MinTime/(4*60_000)] || e.CompactionLevel < 2:
				return 0, fmt.Errorf("block %s is to be merged", e.ID)
			}
			ends[e.MinTime/(4*60_000)] = true
			size += e.IndexSize + e.SegmentSizes[0]
		}
		if size == 0 {
			err = errors.New("no block is there")
		}
		return size, err
	}
	check := func() {
		t.Helper()
		until(t, 5*patience, "usage to tell what is stored", func() error {
			want, err := merged()
			if err != nil {
				return err
			}
			got := h.stored()
			one, two := got["one"], got["two"]
			if one == 0 || two == 0 || one+two != want {
				return fmt.Errorf("one has %d, two %d, the pool %d", one, two, want)
			}
			return nil
		})
	}
	check()
	h.kill()
	h.start()
	check()
}

// stored is what tenants have stored, by their usage of this hour.
func (e *endpoint) stored() map[string]int64 {
	e.t.Helper()
	status, text, err := e.do(http.MethodGet, fmt.Sprintf("/admin/v1/usage?from=%d", time.Now().Truncate(time.Hour).Unix()), "", nil, nil)
	require.NoError(e.t, err)
	require.Equal(e.t, http.StatusOK, status, text)
	var answer struct {
		Hours []struct {
			Tenant      string
			BytesStored int64 `json:"bytes_stored"`
		}
	}
	require.NoError(e.t, json.Unmarshal([]byte(text), &answer))
	out := map[string]int64{}
	for _, h := range answer.Hours {
		out[h.Tenant] = h.BytesStored
	}
	return out
}
