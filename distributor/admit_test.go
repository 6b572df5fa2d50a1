package distributor

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

func (d *door) writeAs(id string, ts ...prompb.TimeSeries) *httptest.ResponseRecorder {
	b, err := (&prompb.WriteRequest{Timeseries: ts}).Marshal()
	require.NoError(d.t, err)
	return d.post(snappy.Encode(nil, b), tenant.Header, id)
}

// unread is a body that nobody is to read.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, io.EOF
}

// postUnread sends a request that is to be answered by its headers alone.
func (d *door) postUnread(id string, length int64) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/api/v1/push", unread{d.t})
	r.ContentLength = length
	r.Header.Set(tenant.Header, id)
	w := httptest.NewRecorder()
	d.server.ServeHTTP(w, r)
	return w
}

// refusals is a meter that keeps what was refused.
type refusals struct {
	unmetered
	counts map[string]int
}

func (r *refusals) Refused(id tenant.ID, _ *wire.UserError, counts []wire.RefusalCount) {
	for _, c := range counts {
		r.counts[string(id)+" "+c.ID] += c.Count
	}
}

func TestRequestRate(t *testing.T) {
	d := newDoor(t, func(d *door) { d.limits.Defaults.RequestRate = 2; d.limits.Defaults.RequestBurst = 3 })
	for range 3 {
		require.Equal(t, 200, d.write(d.series("__name__", "m")).Code)
	}
	w := d.postUnread("t", 100)
	require.Equal(t, 429, w.Code)
	require.Equal(t, "1", w.Header().Get("Retry-After"))
	require.Contains(t, w.Body.String(), "2 requests/s reached (limit request_rate)")
	require.Contains(t, w.Body.String(), "(err-request-rate)")
	require.Equal(t, 200, d.writeAs("other", d.series("__name__", "m")).Code, "others have their own")
	d.now = d.now.Add(time.Second)
	require.Equal(t, 200, d.write(d.series("__name__", "m")).Code)
}

// What is too large or too fast by its headers is not read.
func TestRefusedUnread(t *testing.T) {
	seen := &refusals{counts: map[string]int{}}
	d := newDoor(t, func(d *door) { d.limits.Defaults.IngestionRate = 2; d.limits.Defaults.IngestionBurst = 4 })
	d.CountWith(seen)
	require.Equal(t, 413, d.postUnread("t", int64(d.cfg.MaxRequestBytes)+1).Code)

	three := []prompb.TimeSeries{d.series("__name__", "a"), d.series("__name__", "b"), d.series("__name__", "c")}
	raw, err := (&prompb.WriteRequest{Timeseries: three}).Marshal()
	require.NoError(t, err)
	size := int64(len(snappy.Encode(nil, raw)))
	require.Equal(t, 200, d.write(three...).Code)
	require.Equal(t, 429, d.write(three...).Code, "this one is read")
	for range 5 {
		w := d.postUnread("t", size)
		require.Equal(t, 429, w.Code)
		require.Equal(t, "1", w.Header().Get("Retry-After"))
		require.Contains(t, w.Body.String(), "(err-ingestion-rate)")
	}
	require.Equal(t, 429, d.postUnread("t", 2*size).Code)
	require.Equal(t, map[string]int{"t err-ingestion-rate": 3 + 5*3 + 6}, seen.counts, "by its size, the large one has six samples")
	require.Equal(t, 200, d.write(three[0]).Code, "a smaller one fits")
	require.Equal(t, 200, d.writeAs("other", three...).Code)

	d.now = d.now.Add(time.Second) // where the first refused would have had room, but for the small one
	require.Equal(t, 429, d.write(three...).Code)
	d.now = d.now.Add(time.Second)
	require.Equal(t, 200, d.write(three...).Code)
}

// Of many exemplars of a series the last ones are kept.
func TestExemplarsOfASeries(t *testing.T) {
	d := newDoor(t, func(d *door) { d.limits.Defaults.MaxExemplarsPerSeries = 2 })
	many := d.series("__name__", "m")
	for k := range 5 {
		many.Exemplars = append(many.Exemplars, prompb.Exemplar{Labels: []prompb.Label{{Name: "trace", Value: string(rune('a' + k))}}, Timestamp: d.now.UnixMilli() + int64(k)})
	}
	few := d.series("__name__", "n")
	few.Exemplars = many.Exemplars[:2]
	w := d.write(few, many, few)
	require.Equal(t, 400, w.Code)
	require.Contains(t, w.Body.String(), "refused: 3 err-max-exemplars-per-series;")
	require.Contains(t, w.Body.String(), "series has 5 exemplars in one request, the limit is 2 (limit max_exemplars_per_series_per_request): m")
	require.Equal(t, []string{"a", "b", "d", "e", "a", "b"}, d.ing.exemplars)
}
