package compactor_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/bucket/buckettest"
	"github.com/hearth-metrics/hearth/tenant"
)

func openS3(t testing.TB, endpoint string) bucket.Bucket {
	t.Helper()
	b, err := bucket.New(bucket.Config{Type: bucket.TypeS3, S3: bucket.S3Config{
		Endpoint: endpoint, Bucket: buckettest.Bucket, Region: "us-east-1", Insecure: true, Prefix: t.Name(),
		AccessKeyID: buckettest.AccessKeyID, SecretAccessKey: buckettest.SecretAccessKey,
	}}, t.TempDir(), quiet, prometheus.NewRegistry())
	require.NoError(t, err)
	t.Cleanup(func() { _ = b.(io.Closer).Close() })
	return b
}

// TestS3Misbehaves compacts in a real S3 server whose every fifth answer goes
// wrong in one way or another; then the compactor dies in the middle of it.
func TestS3Misbehaves(t *testing.T) {
	t.Parallel()
	server := testServer.Addr(t)
	proxy := buckettest.StartProxy(t, server)
	w := newWorld(t, 31)
	w.bucket = openS3(t, server)
	w.shipSlot("own", []tenant.ID{"own"}, 4, dayStart(3))
	w.shipSlot(bucket.PoolHome, []tenant.ID{"a", "b", "c"}, 2, dayStart(3))

	faults := []buckettest.Fault{buckettest.Refuse, buckettest.LoseAnswer, buckettest.ResetAfter, buckettest.Truncate, buckettest.SlowDown, buckettest.TruncateEnd, buckettest.BadGateway}
	n := 0
	proxy.Plan(func(*http.Request) buckettest.Fault {
		if n++; n%5 == 0 {
			return faults[n/5%len(faults)]
		}
		return buckettest.Pass
	})
	shaky := openS3(t, proxy.Addr)
	require.NoError(t, w.compactor(shaky, 8, forEver).Round(t.Context()))
	require.Zero(t, w.requireContent("own", bucket.PoolHome))
	require.NotZero(t, proxy.Met())

	w.shipSlot("own", []tenant.ID{"own"}, 4, dayStart(3)+2*hour)
	proxy.Always(buckettest.Pass)
	c := w.compactor(&dying{Bucket: shaky, at: 5}, 8, forEver)
	require.Error(t, c.Round(t.Context()))
	w.requireContent("own", bucket.PoolHome)
	require.NoError(t, w.compactor(shaky, 8, forEver).Round(t.Context()))
	require.Zero(t, w.requireContent("own", bucket.PoolHome))
}
