package app

import (
	"bytes"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant"
)

// haRequest is a replica's sample of a metric at some time, in a version of the
// protocol.
func haRequest(t *testing.T, a *App, replica string, v2 bool, at int64) *http.Request {
	t.Helper()
	contentType := "application/x-protobuf"
	body, err := (&prompb.WriteRequest{Timeseries: []prompb.TimeSeries{{
		Labels:  []prompb.Label{{Name: "__name__", Value: "m"}, {Name: "__replica__", Value: replica}, {Name: "cluster", Value: "c"}, {Name: "job", Value: "j"}},
		Samples: []prompb.Sample{{Timestamp: at, Value: 1}},
	}}}).Marshal()
	if v2 {
		contentType += ";proto=io.prometheus.write.v2.Request"
		body, err = (&writev2.Request{
			Symbols:    []string{"", "__name__", "m", "__replica__", replica, "cluster", "c", "job", "j"},
			Timeseries: []writev2.TimeSeries{{LabelsRefs: []uint32{1, 2, 3, 4, 5, 6, 7, 8}, Samples: []writev2.Sample{{Timestamp: at, Value: 1}}}},
		}).Marshal()
	}
	require.NoError(t, err)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+a.Addr()+"/api/v1/push", bytes.NewReader(snappy.Encode(nil, body)))
	require.NoError(t, err)
	r.Header.Set("Content-Type", contentType)
	return r
}

func askAs(t *testing.T, id string, r *http.Request) (int, string) {
	t.Helper()
	r.Close = true
	r.Header.Set(tenant.Header, id)
	res, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(body)
}

// What two replicas send is one series, which never had the replica label,
// whichever protocol they speak.
func TestHAPairIsOneSeries(t *testing.T) {
	cfg := testConfig(t)
	cfg.Limits.Defaults.HADedupe = true
	a, now := start(t, cfg), time.Now().Add(-time.Second).UnixMilli()
	for i, c := range []struct {
		replica string
		v2      bool
		status  int
	}{{"a", false, 200}, {"b", false, 202}, {"a", true, 204}, {"b", true, 202}} {
		status, body := askAs(t, "t", haRequest(t, a, c.replica, c.v2, now+int64(i)))
		require.Equal(t, c.status, status, "%s: %s", c.replica, body)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+a.Addr()+`/prometheus/api/v1/query?query=count_over_time({__name__=~".%2B"}[1h])`, http.NoBody)
	require.NoError(t, err)
	status, body := askAs(t, "t", r)
	require.Equal(t, 200, status, body)
	require.Contains(t, body, `"result":[{"metric":{"cluster":"c","job":"j"},"value":[`)
	require.Contains(t, body, `,"2"]}]`)
	_, page := get(t, a, "/distributor/ha_tracker")
	require.Contains(t, page, "<td>t<td>c<td>a<td>")
}
