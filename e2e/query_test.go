package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/value"
	"github.com/prometheus/prometheus/prompb"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/storage/remote"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
)

// promParser takes the language as Hearth does.
var promParser = parser.NewParser(parser.Options{
	EnableExperimentalFunctions:  true,
	ExperimentalDurationExpr:     true,
	EnableExtendedRangeSelectors: true,
	EnableBinopFillModifiers:     true,
})

// endpoint is a server that is asked over HTTP.
type endpoint struct {
	t      testing.TB
	client *http.Client
	url    string // without a slash at the end
	prefix string // of the query API's path
	strip  string // a label to overlook in the answers that put returns
}

// newEndpoint is an endpoint whose url is still to be set.
func newEndpoint(t testing.TB, prefix string) endpoint {
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	t.Cleanup(transport.CloseIdleConnections)
	return endpoint{t: t, client: &http.Client{Transport: transport, Timeout: patience}, prefix: prefix}
}

// get asks an operator's route.
func (e *endpoint) get(path string) (status int, body string, err error) {
	return e.do(http.MethodGet, path, "", nil, nil)
}

// do sends a request as a tenant (none if empty). An error means that there
// was no whole answer.
func (e *endpoint) do(method, path, tenant string, header http.Header, body []byte) (status int, answer string, err error) {
	req, err := http.NewRequestWithContext(context.Background(), method, e.url+path, bytes.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	for name, values := range header {
		req.Header[name] = values
	}
	if tenant != "" {
		req.Header.Set("X-Scope-OrgID", tenant)
	}
	res, err := e.client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res.StatusCode, string(text), err
}

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
	Type    string   `json:"resultType"`
	Samples []sample // of a vector or a matrix, sorted by labels
	Scalar  [2]any   // of a scalar or a string: time and text
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
func (e *endpoint) api(tenant, path string, params url.Values) (int, *envelope) {
	e.t.Helper()
	status, body, err := e.do(http.MethodGet, e.prefix+"/api/v1/"+path+"?"+params.Encode(), tenant, nil, nil)
	if err != nil {
		e.t.Fatalf("ask %s as %s: %v", path, tenant, err)
	}
	env := &envelope{}
	if err := json.Unmarshal([]byte(body), env); err != nil {
		e.t.Fatalf("ask %s as %s: %v in the answer %d %q", path, tenant, err, status, body)
	}
	return status, env
}

// ask is api for a question that must have an answer, which goes to data.
func (e *endpoint) ask(tenant, path string, params url.Values, data any) {
	e.t.Helper()
	status, env := e.api(tenant, path, params)
	if status != http.StatusOK || env.Status != "success" {
		e.t.Fatalf("ask %s %v as %s: %d %+v", path, params, tenant, status, env)
	}
	if err := json.Unmarshal(env.Data, data); err != nil {
		e.t.Fatalf("ask %s %v as %s: %v in %s", path, params, tenant, err, env.Data)
	}
}

func seconds(ms int64) string { return strconv.FormatFloat(float64(ms)/1000, 'f', 3, 64) }

// instant evaluates an expression at a time (ms).
func (e *endpoint) instant(tenant, expr string, at int64) result {
	e.t.Helper()
	var data json.RawMessage
	e.ask(tenant, "query", url.Values{"query": {expr}, "time": {seconds(at)}}, &data)
	res, err := decodeResult(data)
	if err != nil {
		e.t.Fatalf("query %s: %v", expr, err)
	}
	return res
}

// over evaluates an expression at each step (ms) from start to end.
func (e *endpoint) over(tenant, expr string, start, end, step int64) result {
	e.t.Helper()
	var data json.RawMessage
	e.ask(tenant, "query_range", rangeParams(expr, start, end, step), &data)
	res, err := decodeResult(data)
	if err != nil {
		e.t.Fatalf("query %s: %v", expr, err)
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
func (e *endpoint) read(tenant string, minT, maxT int64, ms ...*labels.Matcher) (stored, error) {
	status, body, err := e.remoteRead(tenant, prompb.ReadRequest_SAMPLES, minT, maxT, ms)
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
func (e *endpoint) readChunks(tenant string, minT, maxT int64, ms ...*labels.Matcher) (stored, error) {
	status, body, err := e.remoteRead(tenant, prompb.ReadRequest_STREAMED_XOR_CHUNKS, minT, maxT, ms)
	if err != nil || status != http.StatusOK {
		return nil, fmt.Errorf("remote read: %d %s %w", status, body, err)
	}
	r := io.NopCloser(strings.NewReader(body))
	set := remote.NewChunkedSeriesSet(remote.NewChunkedReader(r, 64<<20, nil), r, minT, maxT, func(error) {})
	out := stored{}
	return out, out.collect(set)
}

func (e *endpoint) remoteRead(tenant string, as prompb.ReadRequest_ResponseType, minT, maxT int64, ms []*labels.Matcher) (int, string, error) {
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
	return e.do(http.MethodPost, e.prefix+"/api/v1/read", tenant, header, snappy.Encode(nil, body))
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
// How a histogram hints at resets, and which empty buckets it spells out, is
// the store's own business.
func (p point) differs(sent point) string {
	switch {
	case p.t != sent.t:
		return fmt.Sprintf("time %d, sent %d", p.t, sent.t)
	case sent.h != nil:
		if p.h == nil || !p.h.Copy().Compact(0).Equals(sent.h.Copy().Compact(0)) {
			return fmt.Sprintf("%v, sent %v", p, sent.h)
		}
	case sent.fh != nil:
		if p.fh == nil || !p.fh.Copy().Compact(0).Equals(sent.fh.Copy().Compact(0)) {
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
