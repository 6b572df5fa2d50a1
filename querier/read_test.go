package querier

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/golang/snappy"
	configutil "github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/storage/remote"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

var (
	asSamples = []prompb.ReadRequest_ResponseType{prompb.ReadRequest_SAMPLES}
	asChunks  = []prompb.ReadRequest_ResponseType{prompb.ReadRequest_STREAMED_XOR_CHUNKS}
)

// readClient is Prometheus' own client against a server of the house.
func readClient(t testing.TB, h *house, as []prompb.ReadRequest_ResponseType) remote.ReadClient {
	t.Helper()
	return readClientOf(t, tenant.Middleware(h.router), as)
}

func readClientOf(t testing.TB, handler http.Handler, as []prompb.ReadRequest_ResponseType) remote.ReadClient {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	u, err := url.Parse(server.URL + "/prometheus/api/v1/read")
	require.NoError(t, err)
	client, err := remote.NewReadClient("test", &remote.ClientConfig{
		URL:                   &configutil.URL{URL: u},
		Timeout:               model.Duration(time.Minute),
		Headers:               map[string]string{tenant.Header: string(alice)},
		ChunkedReadLimit:      50 * maxFrame,
		AcceptedResponseTypes: as,
	})
	require.NoError(t, err)
	t.Cleanup(http.DefaultTransport.(*http.Transport).CloseIdleConnections)
	return client
}

// dump writes out a set: labels, times, values, histograms.
func dump(t testing.TB, set storage.SeriesSet) []string {
	t.Helper()
	var out []string
	for set.Next() {
		s := set.At()
		out = append(out, s.Labels().String())
		it := s.Iterator(nil)
		for typ := it.Next(); typ != chunkenc.ValNone; typ = it.Next() {
			switch typ {
			case chunkenc.ValFloat:
				ts, v := it.At()
				out = append(out, fmt.Sprint(ts, v))
			default:
				ts, v := it.AtFloatHistogram(nil)
				out = append(out, fmt.Sprint(ts, v))
			}
		}
		require.NoError(t, it.Err())
	}
	require.NoError(t, set.Err())
	return out
}

func TestRemoteReadEqualsTheDatabase(t *testing.T) {
	t.Parallel()
	h := testHouse(t)
	db := h.recent.dbs[alice]
	for name, as := range map[string][]prompb.ReadRequest_ResponseType{"samples": asSamples, "chunks": asChunks, "either": remote.AcceptedResponseTypes} {
		client := readClient(t, h, as)
		for _, row := range []struct {
			mint, maxt int64
			hints      *storage.SelectHints
			ms         []*labels.Matcher
		}{
			{t0, t0 + 2*hour, nil, []*labels.Matcher{equal("__name__", "requests_total")}},
			{t0 + 50*minute, t0 + 70*minute, nil, []*labels.Matcher{equal("__name__", "requests_total")}},
			{t0, t0 + 2*hour, nil, []*labels.Matcher{equal("__name__", "native")}},
			{t0, t0 + 2*hour, nil, []*labels.Matcher{equal("__name__", "native_float")}},
			{t0, t0 + 2*hour, nil, []*labels.Matcher{labels.MustNewMatcher(labels.MatchRegexp, "job", "a|c")}},
			{t0, t0 + 2*hour, &storage.SelectHints{Start: t0 + 10*minute, End: t0 + hour, Step: minute, Func: "rate", Range: 5 * minute}, []*labels.Matcher{equal("__name__", "up")}},
			{t0, t0 + 2*hour, nil, []*labels.Matcher{equal("__name__", "nothing")}},
		} {
			query, err := remote.ToQuery(row.mint, row.maxt, row.ms, row.hints)
			require.NoError(t, err)
			set, err := client.Read(t.Context(), query, true)
			require.NoError(t, err, name)
			got := dump(t, set)

			q, err := db.Querier(row.mint, row.maxt)
			require.NoError(t, err)
			want := dump(t, q.Select(t.Context(), true, row.hints, row.ms...))
			require.NoError(t, q.Close())
			require.Equal(t, want, got, "%s %v", name, row)
		}
	}
	require.Eventually(t, func() bool { _, r := h.queue.load(); return r == 0 }, 10*time.Second, time.Millisecond)
	h.allClosed(t)
}

func (h *house) read(t testing.TB, req *prompb.ReadRequest) *httptest.ResponseRecorder {
	t.Helper()
	body, err := req.Marshal()
	require.NoError(t, err)
	r := httptest.NewRequest("POST", "/prometheus/api/v1/read", bytes.NewReader(snappy.Encode(nil, body)))
	w := httptest.NewRecorder()
	h.router.ServeHTTP(w, r.WithContext(tenant.WithID(r.Context(), alice)))
	return w
}

func readUp(as []prompb.ReadRequest_ResponseType) *prompb.ReadRequest {
	q := &prompb.Query{StartTimestampMs: t0, EndTimestampMs: t0 + 2*hour, Matchers: []*prompb.LabelMatcher{{Name: "__name__", Value: "up"}}}
	return &prompb.ReadRequest{Queries: []*prompb.Query{q, q}, AcceptedResponseTypes: as}
}

func TestRemoteReadLimitsAndErrors(t *testing.T) {
	t.Parallel()
	raw := errors.New("open /data/__hearth__/pool: no such file")
	for _, as := range [][]prompb.ReadRequest_ResponseType{asSamples, asChunks} {
		chunked := as[0] == prompb.ReadRequest_STREAMED_XOR_CHUNKS
		for _, row := range []struct {
			name    string
			prepare func(h *house)
			code    int
			text    string
		}{
			{"fine", func(*house) {}, 200, ""},
			{"length", func(h *house) { h.limits.MaxQueryLength = model.Duration(time.Hour) }, 422, "err-max-query-length"},
			{"series", func(h *house) { h.limits.MaxSeriesPerQuery = 1 }, 422, "err-max-series-per-query"},
			{"samples of one query", func(h *house) { h.limits.MaxSamplesPerQuery = 300 }, 422, "err-max-samples-per-query"},
			{"samples of both together", func(h *house) { h.limits.MaxSamplesPerQuery = 500 }, 422, "err-max-samples-per-query"},
			{"not ready", func(h *house) { h.recent.err = wire.Errorf(wire.Unavailable, "err-not-ready", "replaying") }, 503, "err-not-ready"},
			{"recent", func(h *house) { h.recent.fail = raw }, 500, "err-query-storage"},
			{"stored", func(h *house) { h.stored.fail = raw }, 500, "err-query-storage"},
			{"stored cannot be opened", func(h *house) { h.stored.err = raw }, 500, "err-query-storage"},
		} {
			h := sharedHouse(t)
			row.prepare(h)
			req := readUp(as)
			w, aborted := httptest.NewRecorder(), false
			func() {
				defer func() { aborted = recover() != nil }()
				w = h.read(t, req)
			}()
			switch {
			case chunked && row.text == "err-max-samples-per-query":
				require.Equal(t, 200, w.Code, "a stream is not held in memory")
			case aborted:
				require.True(t, chunked && row.name == "series", "broken off: %s", row.name)
			default:
				require.Equal(t, row.code, w.Code, "%s: %s", row.name, w.Body)
				require.Contains(t, w.Body.String(), row.text)
				require.NotContains(t, w.Body.String(), "/data")
			}
			h.allClosed(t)
		}
	}
}

// A stream that breaks after its first frames is an error to the client, never
// a shorter answer.
func TestBrokenStreamIsAnError(t *testing.T) {
	t.Parallel()
	h := testHouse(t)
	h.limits.MaxSeriesPerQuery = 1
	client := readClient(t, h, asChunks)
	query, err := remote.ToQuery(t0, t0+2*hour, []*labels.Matcher{equal("__name__", "up")}, nil)
	require.NoError(t, err)
	set, err := client.Read(t.Context(), query, true)
	if err == nil {
		for set.Next() {
		}
		err = set.Err()
	}
	require.Error(t, err)
	require.Eventually(t, func() bool { _, r := h.queue.load(); return r == 0 }, 10*time.Second, time.Millisecond)
}

func TestReadOfNonsense(t *testing.T) {
	t.Parallel()
	h := newHouse(t, map[tenant.ID]*tsdb.DB{}, 0, 0)
	bomb := binary.AppendUvarint(nil, 1<<31) // a snappy header that promises 2 GiB
	for name, body := range map[string][]byte{
		"empty": {}, "no snappy": []byte("x{}"), "bomb": bomb, "no protobuf": snappy.Encode(nil, []byte{0xff, 0xff}),
		"bad regexp": snappy.Encode(nil, must((&prompb.ReadRequest{Queries: []*prompb.Query{{Matchers: []*prompb.LabelMatcher{{Type: prompb.LabelMatcher_RE, Name: "a", Value: "("}}}}}).Marshal())),
		"bad type":   snappy.Encode(nil, must((&prompb.ReadRequest{AcceptedResponseTypes: []prompb.ReadRequest_ResponseType{77}}).Marshal())),
	} {
		r := httptest.NewRequest("POST", "/prometheus/api/v1/read", bytes.NewReader(body))
		w := httptest.NewRecorder()
		h.router.ServeHTTP(w, r.WithContext(tenant.WithID(r.Context(), alice)))
		require.Equal(t, 400, w.Code, "%s: %s", name, w.Body)
		require.Contains(t, w.Body.String(), "err-read-request", name)
	}
	r := httptest.NewRequest("POST", "/prometheus/api/v1/read", io.LimitReader(zeros{}, maxBody+1))
	w := httptest.NewRecorder()
	h.router.ServeHTTP(w, r.WithContext(tenant.WithID(r.Context(), alice)))
	require.Equal(t, http.StatusRequestEntityTooLarge, w.Code)
	require.Contains(t, w.Body.String(), "err-query-body-too-large")
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}
