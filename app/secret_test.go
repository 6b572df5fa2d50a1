package app

import (
	"bytes"
	"log/slog"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/wire"
)

// Members that start together have one secret, and so do those that come later.
func TestCommonSecret(t *testing.T) {
	b, err := bucket.New(testConfig(t).Bucket, t.TempDir(), slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	require.NoError(t, err)
	secrets := make([]wire.Secret, 10)
	var wg sync.WaitGroup
	for i := range secrets {
		wg.Go(func() {
			var err error
			if secrets[i], err = commonSecret(t.Context(), b); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, s := range secrets {
		require.Equal(t, secrets[0], s)
		require.NotZero(t, s)
	}
	again, err := commonSecret(t.Context(), b)
	require.NoError(t, err)
	require.Equal(t, secrets[0], again)

	_, err = b.Put(t.Context(), seriesSecret, bytes.NewReader([]byte("short")), 5, bucket.Condition{})
	require.NoError(t, err)
	_, err = commonSecret(t.Context(), b)
	require.ErrorContains(t, err, "5 bytes")
}
