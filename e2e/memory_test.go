package e2e

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Whoever sends new series for ever does not take the process down. There is no
// memory for more at some time, and what has a series already goes on: its
// samples are stored, also those in a request with new series, and asked for.
func TestNoMemoryForMoreSeries(t *testing.T) {
	t.Parallel()
	if !long {
		t.Skip("with the build tag e2e")
	}
	h := newHearth(t)
	h.env = []string{"GOMEMLIMIT=96MiB"}
	h.start()
	now := time.Now().UnixMilli()
	old := func(v float64) series { return floats(seriesLabels(t, "old"), now+int64(v), 1, v) }
	h.push(protocols[0], "settled", old(0))

	const most, each = 200_000, 2000
	n, refused := 0, false
	crowd := func() (list []series) {
		for range each {
			list = append(list, floats(seriesLabels(t, fmt.Sprintf(`new{pod="api-7f9c6d5b4-%06d"}`, n)), now, 1, 1))
			n++
		}
		return list
	}
	for !refused {
		require.Less(t, n, most, "all were taken, with %v in memory", h.metric(`hearth_ingester_series{head="pool"}`))
		status, answer, err := h.send(protocols[0], "growing", crowd()...)
		require.NoError(t, err)
		if refused = status == http.StatusServiceUnavailable; refused {
			require.Contains(t, answer, "err-ingester-memory")
			continue
		}
		require.Equal(t, http.StatusOK, status, answer)
	}
	t.Logf("%d series were taken", n)
	for v := 1.0; v <= 20; v++ {
		status, answer, err := h.send(protocols[0], "settled", append(crowd(), old(v))...)
		require.NoError(t, err)
		if status != http.StatusOK { // else the collector has found some
			require.Equal(t, http.StatusServiceUnavailable, status, answer)
		}
		require.Equal(t, fmt.Sprint(v), h.instant("settled", "old", now+int64(v)).Samples[0].Value[1])
	}
	require.Less(t, n, most)

	h.flush()
	until(t, patience, "new series to be taken again", func() error {
		status, answer, err := h.send(protocols[0], "growing", crowd()[:10]...)
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("%d %s", status, answer)
		}
		return err
	})
}
