package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/storage/remote"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

var promParser = parser.NewParser(parser.Options{EnableExperimentalFunctions: true})

// envelope is what the query API wraps its answers in.
type envelope struct {
	Status    string          `json:"status"`
	ErrorType string          `json:"errorType"`
	Error     string          `json:"error"`
	Data      json.RawMessage `json:"data"`
	Warnings  []string        `json:"warnings"`
	Infos     []string        `json:"infos"`
}

// result is the data of a query.
type result struct {
	Type    string    `json:"resultType"`
	Samples []sample  // of a vector or a matrix, sorted by labels
	Scalar  [2]any    // of a scalar or a string: time and text
	err     *envelope // what the query failed with, if it did
}

// sample is one series of a vector (one value) or a matrix.
type sample struct {
	Metric     map[string]string `json:"metric"`
	Value      [2]any            `json:"value"`
	Values     [][2]any          `json:"values"`
	Histogram  [2]any            `json:"histogram"`
	Histograms [][2]any          `json:"histograms"`
}

func (s sample) name() string { return labels.FromMap(s.Metric).String() }

// api asks a path of the query API as a tenant.
func (h *hearth) api(tenant, path string, params url.Values) (int, *envelope) {
	h.t.Helper()
	status, body, err := h.do(http.MethodGet, "/prometheus/api/v1/"+path+"?"+params.Encode(), tenant, nil, nil)
	if err != nil {
		h.t.Fatalf("ask %s as %s: %v", path, tenant, err)
	}
	env := &envelope{}
	if err := json.Unmarshal([]byte(body), env); err != nil {
		h.t.Fatalf("ask %s as %s: %v in the answer %d %q", path, tenant, err, status, body)
	}
	return status, env
}

// ask is api for a question that must have an answer, which goes to data.
func (h *hearth) ask(tenant, path string, params url.Values, data any) {
	h.t.Helper()
	status, env := h.api(tenant, path, params)
	if status != http.StatusOK || env.Status != "success" {
		h.t.Fatalf("ask %s %v as %s: %d %+v", path, params, tenant, status, env)
	}
	if err := json.Unmarshal(env.Data, data); err != nil {
		h.t.Fatalf("ask %s %v as %s: %v in %s", path, params, tenant, err, env.Data)
	}
}

func seconds(ms int64) string { return strconv.FormatFloat(float64(ms)/1000, 'f', 3, 64) }

// instant evaluates an expression at a time (ms).
func (h *hearth) instant(tenant, expr string, at int64) result {
	h.t.Helper()
	var data json.RawMessage
	h.ask(tenant, "query", url.Values{"query": {expr}, "time": {seconds(at)}}, &data)
	res, err := decodeResult(data)
	if err != nil {
		h.t.Fatalf("query %s: %v", expr, err)
	}
	return res
}

// over evaluates an expression at each step (ms) from start to end.
func (h *hearth) over(tenant, expr string, start, end, step int64) result {
	h.t.Helper()
	var data json.RawMessage
	h.ask(tenant, "query_range", rangeParams(expr, start, end, step), &data)
	res, err := decodeResult(data)
	if err != nil {
		h.t.Fatalf("query %s: %v", expr, err)
	}
	return res
}

func rangeParams(expr string, start, end, step int64) url.Values {
	return url.Values{"query": {expr}, "start": {seconds(start)}, "end": {seconds(end)}, "step": {seconds(step)}}
}

func decodeResult(data []byte) (result, error) {
	var raw struct {
		Type   string          `json:"resultType"`
		Result json.RawMessage `json:"result"`
	}
	if err := json.Unmarshal(data, &raw); err != nil {
		return result{}, err
	}
	res := result{Type: raw.Type}
	if raw.Type == "scalar" || raw.Type == "string" {
		return res, json.Unmarshal(raw.Result, &res.Scalar)
	}
	err := json.Unmarshal(raw.Result, &res.Samples)
	slices.SortStableFunc(res.Samples, func(a, b sample) int { return strings.Compare(a.name(), b.name()) })
	return res, err
}

// text is a result in lines that can be compared at a glance: for each series
// its labels and values, without the times of a vector.
func (r result) text() []string {
	out := []string{}
	for _, s := range r.Samples {
		line := s.name()
		for _, v := range append([][2]any{s.Value, s.Histogram}, slices.Concat(s.Values, s.Histograms)...) {
			if v[1] != nil {
				line += fmt.Sprintf(" %v", v[1])
			}
		}
		out = append(out, line)
	}
	return out
}

// stored is what is kept of a tenant's series: by labels, then by time.
type stored map[string]map[int64]point

// read reads the series that match all matchers between two times (ms,
// inclusive) by remote read, as samples. Stale markers are among them. A time
// that comes twice in a series is an error.
func (h *hearth) read(tenant string, minT, maxT int64, ms ...*labels.Matcher) (stored, error) {
	status, body, err := h.remoteRead(tenant, prompb.ReadRequest_SAMPLES, minT, maxT, ms)
	if err != nil || status != http.StatusOK {
		return nil, fmt.Errorf("remote read: %d %s %w", status, body, err)
	}
	plain, err := snappy.Decode(nil, []byte(body))
	if err != nil {
		return nil, err
	}
	var res prompb.ReadResponse
	if err := res.Unmarshal(plain); err != nil {
		return nil, err
	}
	out := stored{}
	for _, q := range res.Results {
		if err := out.collect(remote.FromQueryResult(true, q)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// readChunks is read as a stream of chunks.
func (h *hearth) readChunks(tenant string, minT, maxT int64, ms ...*labels.Matcher) (stored, error) {
	status, body, err := h.remoteRead(tenant, prompb.ReadRequest_STREAMED_XOR_CHUNKS, minT, maxT, ms)
	if err != nil || status != http.StatusOK {
		return nil, fmt.Errorf("remote read: %d %s %w", status, body, err)
	}
	r := io.NopCloser(strings.NewReader(body))
	set := remote.NewChunkedSeriesSet(remote.NewChunkedReader(r, 64<<20, nil), r, minT, maxT, func(error) {})
	out := stored{}
	return out, out.collect(set)
}

func (h *hearth) remoteRead(tenant string, as prompb.ReadRequest_ResponseType, minT, maxT int64, ms []*labels.Matcher) (int, string, error) {
	q, err := remote.ToQuery(minT, maxT, ms, nil)
	if err != nil {
		return 0, "", err
	}
	req := &prompb.ReadRequest{Queries: []*prompb.Query{q}, AcceptedResponseTypes: []prompb.ReadRequest_ResponseType{as}}
	body, err := req.Marshal()
	if err != nil {
		return 0, "", err
	}
	header := http.Header{
		"Content-Type":                     {"application/x-protobuf"},
		"Content-Encoding":                 {"snappy"},
		"X-Prometheus-Remote-Read-Version": {"0.1.0"},
	}
	return h.do(http.MethodPost, "/prometheus/api/v1/read", tenant, header, snappy.Encode(nil, body))
}

func (out stored) collect(set storage.SeriesSet) error {
	var it chunkenc.Iterator
	for set.Next() {
		name := set.At().Labels().String()
		if out[name] == nil {
			out[name] = map[int64]point{}
		}
		it = set.At().Iterator(it)
		for kind := it.Next(); kind != chunkenc.ValNone; kind = it.Next() {
			p := point{t: it.AtT()}
			switch kind {
			case chunkenc.ValFloat:
				_, p.v = it.At()
			case chunkenc.ValHistogram:
				_, p.h = it.AtHistogram(nil)
			case chunkenc.ValFloatHistogram:
				_, p.fh = it.AtFloatHistogram(nil)
			}
			if _, again := out[name][p.t]; again {
				return fmt.Errorf("series %s has two samples at %d", name, p.t)
			}
			out[name][p.t] = p
		}
		if it.Err() != nil {
			return it.Err()
		}
	}
	return set.Err()
}

// differs says how a stored sample is not the one that was sent, "" if it is.
// How a histogram hints at resets is the store's own business.
func (p point) differs(sent point) string {
	switch {
	case p.t != sent.t:
		return fmt.Sprintf("time %d, sent %d", p.t, sent.t)
	case sent.h != nil:
		if p.h == nil || !p.h.Equals(sent.h) {
			return fmt.Sprintf("%v, sent %v", p, sent.h)
		}
	case sent.fh != nil:
		if p.fh == nil || !p.fh.Equals(sent.fh) {
			return fmt.Sprintf("%v, sent %v", p, sent.fh)
		}
	case p.h != nil || p.fh != nil || math.Float64bits(p.v) != math.Float64bits(sent.v):
		return fmt.Sprintf("%v, sent %v", p, sent.v)
	}
	return ""
}

func (p point) String() string {
	switch {
	case p.h != nil:
		return p.h.String()
	case p.fh != nil:
		return p.fh.String()
	case value.IsStaleNaN(p.v):
		return "stale"
	default:
		return strconv.FormatFloat(p.v, 'g', -1, 64)
	}
}

// everything matches all series.
func everything() *labels.Matcher {
	return labels.MustNewMatcher(labels.MatchRegexp, "__name__", ".+")
}

var errNotYet = errors.New("not yet")
