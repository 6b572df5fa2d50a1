package querier

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/storage/remote"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant"
)

func (h *house) doAll(ids []tenant.ID, r request) *httptest.ResponseRecorder {
	req := r.to("/prometheus/api/v1")
	req = req.WithContext(tenant.WithIDs(req.Context(), ids))
	w := httptest.NewRecorder()
	h.router.ServeHTTP(w, req)
	return w
}

// town is a house of several tenants, and one plain database with all of their
// series, labelled as the answer to a query over several has them.
func town(t testing.TB) (*house, *tsdb.DB, []tenant.ID) {
	t.Helper()
	ids := []tenant.ID{alice, bob, "nobody"}
	dbs, all := map[tenant.ID]*tsdb.DB{}, newDB(t)
	for _, id := range ids[:2] {
		dbs[id] = newDB(t)
		fill(t, dbs[id], string(id))
		// The label of the tenant changes the order of these.
		odd(t, dbs[id], func(l labels.Labels) labels.Labels { return l })
	}
	dbs["nobody"] = newDB(t)
	label := func(tag string, l labels.Labels) labels.Labels {
		return ofTenant(labels.NewBuilder(l), l, tenant.ID(tag))
	}
	fillAll(t, all, label, string(alice), string(bob))
	for _, id := range ids[:2] {
		odd(t, all, func(l labels.Labels) labels.Labels { return label(string(id), l) })
	}
	return newHouse(t, dbs, t0+hour, 10*minute), all, ids
}

func odd(t testing.TB, db *tsdb.DB, label func(labels.Labels) labels.Labels) {
	t.Helper()
	app := db.Appender(t.Context())
	for i, l := range []labels.Labels{
		labels.FromStrings("__name__", "odd"),
		labels.FromStrings("__name__", "odd", "__replica__", "1"),
		labels.FromStrings("__name__", "odd", tenant.Label, "theirs"),
		labels.FromStrings("__name__", "odd", tenant.Label, string(bob)),
		labels.FromStrings("A", "x", "__name__", "odd"),
	} {
		_, err := app.Append(0, label(l), t0+90*minute, float64(i))
		require.NoError(t, err)
	}
	require.NoError(t, app.Commit())
}

// comparable is an answer without what is chance: the order of an instant
// vector or of series, and the last digits of a sum.
func comparable(t testing.TB, w *httptest.ResponseRecorder) string {
	t.Helper()
	var body struct {
		Status, ErrorType string
		Data              any
		Warnings, Infos   []string
	}
	if json.Unmarshal(w.Body.Bytes(), &body) != nil {
		return fmt.Sprintf("%d %s", w.Code, w.Body)
	}
	list, _ := body.Data.([]any)
	if data, ok := body.Data.(map[string]any); ok && data["resultType"] == "vector" {
		list, _ = data["result"].([]any)
	}
	slices.SortFunc(list, func(a, b any) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	body.Data = rounded(body.Data)
	text, err := json.Marshal(body)
	require.NoError(t, err)
	return fmt.Sprintf("%d %s", w.Code, text)
}

func rounded(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = rounded(v[k])
		}
	case []any:
		for i := range v {
			v[i] = rounded(v[i])
		}
	case string:
		if f, err := strconv.ParseFloat(v, 64); err == nil {
			return strconv.FormatFloat(f, 'g', 12, 64)
		}
	}
	return v
}

// What is asked of several tenants is answered as a Prometheus would that has
// all of their series, with a label that tells whose they are.
func TestSeveralTenantsEqualOnePrometheus(t *testing.T) {
	t.Parallel()
	h, all, ids := town(t)
	plain := plainAPI(h, all, nil)
	at, start, end := secs(t0+90*minute), secs(t0), secs(t0+2*hour)
	rows := answers()
	for _, expr := range []string{
		"odd", `odd{__tenant_id__="alice"}`, `odd{__tenant_id__!="alice"}`, `{__tenant_id__="bob"}`, `{__tenant_id__=~"alice|bob", __tenant_id__!~"a.*"}`,
		`odd{__tenant_id__=""}`, `odd{__tenant_id__="stranger"}`, `odd{original___tenant_id__="theirs"}`, `odd{original___tenant_id__=""}`,
		`{original___tenant_id__!="", __tenant_id__="bob"}`, `count by (__tenant_id__) (requests_total)`, `sum by (__tenant_id__, job) (rate(requests_total[5m]))`,
		`up{__tenant_id__="alice"} - on(job) up{__tenant_id__="bob"}`, `sum without (__tenant_id__, tenant) (up)`,
		`label_replace(up, "x", "$1", "__tenant_id__", "(.*)")`, `absent(up{__tenant_id__="nobody"})`, `up{__tenant_id__="alice"} or up`,
	} {
		rows = append(rows, request{path: instant, form: params("query", expr, "time", at)},
			request{path: ranged, form: params("query", expr, "start", start, "end", end, "step", "60")},
			request{path: "/query_exemplars", form: params("query", expr, "start", start, "end", end)})
		if strings.HasPrefix(expr, "odd") || strings.HasPrefix(expr, "{") {
			for _, path := range []string{"/series", "/labels", "/label/__tenant_id__/values", "/label/original___tenant_id__/values", "/label/job/values"} {
				rows = append(rows, request{path: path, form: params("match[]", expr)}, request{path: path, form: params("match[]", expr, "match[]", `up{job="a"}`)})
			}
		}
	}
	for _, path := range []string{"/label/__tenant_id__/values", "/label/original___tenant_id__/values"} {
		rows = append(rows, request{path: path}, request{path: path, form: params("start", "1", "end", "2")})
	}
	n := 0
	for _, row := range rows {
		// Which series these choose of those that are equal is chance.
		if q := row.form.Get("query"); row.form.Has("limit") || strings.Contains(q, "topk") || strings.Contains(q, "limitk") {
			continue
		}
		want := httptest.NewRecorder()
		plain.ServeHTTP(want, row.to(""))
		require.Equal(t, comparable(t, want), comparable(t, h.doAll(ids, row)), "%s", row)
		n++
	}
	h.allClosed(t)
	t.Logf("%d answers are equal", n)
}

// Remote read gives several tenants' series in the order of their labels.
func TestRemoteReadOfSeveral(t *testing.T) {
	t.Parallel()
	h, all, ids := town(t)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.router.ServeHTTP(w, r.WithContext(tenant.WithIDs(r.Context(), ids)))
	})
	for _, as := range [][]prompb.ReadRequest_ResponseType{asSamples, asChunks} {
		client := readClientOf(t, handler, as)
		for _, ms := range [][]*labels.Matcher{
			{labels.MustNewMatcher(labels.MatchRegexp, "__name__", "odd|up|native.*")},
			{equal("__name__", "requests_total"), equal(tenant.Label, string(bob))},
		} {
			query, err := remote.ToQuery(t0, t0+2*hour, ms, nil)
			require.NoError(t, err)
			set, err := client.Read(t.Context(), query, true)
			require.NoError(t, err)
			got := dump(t, set)
			q, err := all.Querier(t0, t0+2*hour)
			require.NoError(t, err)
			require.Equal(t, dump(t, q.Select(t.Context(), true, nil, ms...)), got)
			require.NoError(t, q.Close())
		}
	}
	require.Eventually(t, func() bool { _, r := h.queue.load(); return r == 0 }, 10*time.Second, time.Millisecond)
	h.allClosed(t)
}

// One tenant's failure is the query's, at whatever depth, and says whose it is.
func TestOneTenantsFailureIsTheQuerys(t *testing.T) {
	t.Parallel()
	h, _, ids := town(t)
	asks := []request{
		{path: instant, form: params("query", "up", "time", secs(t0+hour))},
		{path: ranged, form: params("query", "sum(up)", "start", secs(t0), "end", secs(t0+2*hour), "step", "60")},
		{path: "/series", form: params("match[]", "up")},
		{path: "/labels"},
		{path: "/label/job/values"},
		{path: "/label/__tenant_id__/values"},
	}
	h.recent.whose, h.recent.err = bob, errors.New("disk of secret-host is gone")
	for _, ask := range asks {
		w := h.doAll(ids, ask)
		require.Equal(t, http.StatusInternalServerError, w.Code, "%s: %s", ask, w.Body)
		require.Contains(t, w.Body.String(), "tenant bob: ")
		require.Contains(t, w.Body.String(), "err-query-storage")
		require.NotContains(t, w.Body.String(), "secret-host")
		w = h.doAll(ids[:1], ask)
		require.Equal(t, http.StatusOK, w.Code, "%s: %s", ask, w.Body)
	}
	for _, ask := range asks[:2] { // who narrows the tenants does not ask the broken one
		ask.form = params("query", `up{__tenant_id__="alice"}`, "time", secs(t0+hour), "start", secs(t0), "end", secs(t0+hour), "step", "60")
		require.Equal(t, http.StatusOK, h.doAll(ids, ask).Code)
	}
	h.recent.err = nil
	h.stored.deep = errors.New("chunk of secret-host is gone")
	w := h.doAll(ids, asks[1])
	require.Equal(t, http.StatusInternalServerError, w.Code)
	require.Contains(t, w.Body.String(), "tenant ")
	require.NotContains(t, w.Body.String(), "secret-host")
	h.allClosed(t)
}

// Each tenant's limits are applied to its part.
func TestLimitsOfEach(t *testing.T) {
	t.Parallel()
	h, _, ids := town(t)
	ask := func(expr string) *httptest.ResponseRecorder {
		return h.doAll(ids, request{path: ranged, form: params("query", expr, "start", secs(t0), "end", secs(t0+2*hour), "step", "60")})
	}
	small := tenant.DefaultLimits()
	h.own = map[tenant.ID]*tenant.Limits{bob: &small}

	small.MaxSeriesPerQuery = 5
	require.Equal(t, http.StatusOK, ask("up").Code)
	w := ask("requests_total")
	require.Equal(t, http.StatusUnprocessableEntity, w.Code)
	require.Contains(t, w.Body.String(), "tenant bob: ")
	require.Contains(t, w.Body.String(), "err-max-series-per-query")
	require.Equal(t, http.StatusOK, ask(`requests_total{__tenant_id__="alice"}`).Code)

	// The whole may have as many series as the largest.
	h.limits.MaxSeriesPerQuery, small.MaxSeriesPerQuery = 13, 12
	w = ask("requests_total")
	require.Equal(t, http.StatusUnprocessableEntity, w.Code)
	require.Contains(t, w.Body.String(), "more than 13 series")
	h.limits.MaxSeriesPerQuery = 24
	require.Equal(t, http.StatusOK, ask("requests_total").Code)

	// What is of the whole is held to the smallest.
	small.MaxQueryLength = model.Duration(3600e9)
	require.Contains(t, ask("up").Body.String(), "err-max-query-length")
	small.MaxQueryLength, small.MaxSamplesPerQuery = 0, 10
	require.Contains(t, ask("up").Body.String(), "err-max-samples-per-query")
	small.MaxSamplesPerQuery, small.MaxQueryExpression = 0, 1
	require.Contains(t, ask("up").Body.String(), "err-max-query-expression-size")
	small.MaxQueryExpression = 0

	// How far back one sees is no reason for another to see less.
	small.MaxQueryLookback = model.Duration(3600e9)
	w = ask("up")
	require.Contains(t, w.Body.String(), `"__tenant_id__":"alice"`)
	require.NotContains(t, w.Body.String(), `"__tenant_id__":"bob"`)
	h.allClosed(t)
}

func TestMetadataOfSeveral(t *testing.T) {
	t.Parallel()
	h, _, ids := town(t)
	h.recent.meta = map[string][]metadata.Metadata{"up": {{Type: "gauge", Help: "x"}}}
	h.recent.ownMeta = map[tenant.ID]map[string][]metadata.Metadata{bob: {"up": {{Type: "gauge", Help: "y"}, {Type: "gauge", Help: "x"}}, "bobs": {{Type: "counter"}}}}
	var found map[string][]metadata.Metadata
	require.NoError(t, json.Unmarshal(decode(t, h.doAll(ids, request{path: "/metadata"})).Data, &found))
	require.ElementsMatch(t, []metadata.Metadata{{Type: "gauge", Help: "x"}, {Type: "gauge", Help: "y"}}, found["up"])
	require.Len(t, found["bobs"], 1)
}

// Whoever combines tenants waits in one line, so that he gets no more turns
// than one tenant does.
func TestOneLineForWhoAsksSeveral(t *testing.T) {
	t.Parallel()
	h, _, ids := town(t)
	for _, combined := range [][]tenant.ID{ids, ids[:2], ids[1:], ids[:1]} {
		ctx := tenant.WithIDs(t.Context(), combined)
		who, err := h.whose(ctx)
		require.NoError(t, err)
		require.Equal(t, tenant.ID("|"), who.line())
	}
}
