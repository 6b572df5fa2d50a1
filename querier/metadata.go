package querier

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/util/httputil"
	v1 "github.com/prometheus/prometheus/web/api/v1"

	"github.com/hearth-metrics/hearth/tenant"
)

// serveMetadata answers /metadata. Prometheus' own handler asks its scrape
// targets, which we have none of.
func (q *Querier) serveMetadata(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	found, err := q.metadata(r)
	if err != nil {
		writeError(w, err)
		return
	}
	body, err := v1.JSONCodec{}.Encode(&v1.Response{Status: "success", Data: found})
	if err != nil {
		writeError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body)
}

func (q *Querier) metadata(r *http.Request) (map[string][]metadata.Metadata, error) {
	limit, err := numberParam(r, "limit")
	if err != nil {
		return nil, err
	}
	perMetric, err := numberParam(r, "limit_per_metric")
	if err != nil {
		return nil, err
	}
	if perMetric == 0 {
		perMetric = -1 // as in Prometheus: no limit, where limit=0 means none
	}
	if limit == 0 {
		return map[string][]metadata.Metadata{}, nil
	}
	ids, several, err := tenant.AllFromContext(r.Context())
	if err != nil {
		return nil, err
	}
	asked := limit
	if len(tenant.PolicyFrom(r.Context())) > 0 {
		asked = -1 // some of it may not be shown
	}
	of := func(ctx context.Context, id tenant.ID) (map[string][]metadata.Metadata, error) {
		found, err := q.recent.Metadata(ctx, id, r.FormValue("metric"), asked, perMetric)
		if err == nil {
			err = q.hideMetadata(ctx, found)
		}
		if err = q.refine(id, err); err != nil && several {
			err = q.blame(id, err)
		}
		return found, err
	}
	found, err := eachMetadata(r.Context(), ids, of)
	if err != nil {
		return nil, err
	}
	return firstMetadata(found, limit, perMetric), nil
}

// eachMetadata is the metadata of all tenants: of a metric, what any of them
// says of it.
func eachMetadata(ctx context.Context, ids []tenant.ID, of func(context.Context, tenant.ID) (map[string][]metadata.Metadata, error)) (map[string][]metadata.Metadata, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	answers, err := each(ctx, cancel, ids, func(ctx context.Context, id tenant.ID) ([]map[string][]metadata.Metadata, error) {
		found, err := of(ctx, id)
		return []map[string][]metadata.Metadata{found}, err
	})
	if err != nil {
		return nil, err
	}
	all := map[string][]metadata.Metadata{}
	for _, found := range answers {
		for name, list := range found {
			for _, md := range list {
				if !slices.Contains(all[name], md) {
					all[name] = append(all[name], md)
				}
			}
		}
	}
	return all, nil
}

// metadataSeen is how far back a metric must have a series that a label policy
// shows for its metadata to be shown.
const metadataSeen = 24 * time.Hour

// hideMetadata takes out metrics of which the request's label policy shows no
// series. Metadata has no labels of its own.
func (q *Querier) hideMetadata(ctx context.Context, found map[string][]metadata.Metadata) error {
	if len(tenant.PolicyFrom(ctx)) == 0 {
		return nil
	}
	now := time.Now()
	from, err := q.Queryable().Querier(now.Add(-metadataSeen).UnixMilli(), now.UnixMilli())
	if err != nil {
		return err
	}
	defer from.Close()
	names, _, err := from.LabelValues(ctx, model.MetricNameLabel, nil)
	if err != nil {
		return err
	}
	shown := map[string]bool{}
	for _, name := range names {
		shown[name] = true
		// A family's metadata has the name without these.
		for _, suffix := range []string{"_bucket", "_count", "_sum", "_total"} {
			if family, ok := strings.CutSuffix(name, suffix); ok {
				shown[family] = true
			}
		}
	}
	maps.DeleteFunc(found, func(name string, _ []metadata.Metadata) bool { return !shown[name] })
	return nil
}

// firstMetadata makes sure of the limits, negative: none, and that no metric
// has null for a list.
func firstMetadata(found map[string][]metadata.Metadata, limit, perMetric int) map[string][]metadata.Metadata {
	out := make(map[string][]metadata.Metadata, len(found))
	for _, name := range slices.Sorted(maps.Keys(found)) {
		if limit >= 0 && len(out) >= limit {
			break
		}
		list := found[name]
		if perMetric >= 0 && len(list) > perMetric {
			list = list[:perMetric]
		}
		out[name] = append([]metadata.Metadata{}, list...)
	}
	return out
}

// numberParam reads a number, -1 where there is none.
func numberParam(r *http.Request, name string) (int, error) {
	s := r.FormValue(name)
	if s == "" {
		return -1, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		return 0, paramError(name + " must be a number")
	}
	return max(n, -1), nil
}

// paramError is an error in Prometheus' own words, so it has no id.
type paramError string

func (e paramError) Error() string { return string(e) }

func compressed(h http.HandlerFunc) http.Handler {
	return httputil.CompressionHandler{Handler: h}
}
