package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"go.uber.org/goleak"
)

// serveSink as the first argument makes the test binary a server to measure:
// see sinkMain.
const serveSink = "serve-sink"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == serveSink {
		sinkMain(os.Args[2], os.Args[3])
	}
	goleak.VerifyTestMain(m)
}

// sinkMain serves a sink on an address. A flush puts one file into store.
func sinkMain(addr, store string) {
	s := &sink{store: store}
	err := http.ListenAndServe(addr, s)
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// sink is a server that keeps what is written to it, decoded by Prometheus'
// own types, and answers just the queries that verify asks. It forgets
// everything when it ends.
type sink struct {
	store string

	mu     sync.Mutex
	got    map[string]map[string][]prompb.Sample // by tenant and labels
	labels map[string][]prompb.Label
	wrong  []string // what could not be decoded
	refuse int      // answer so many writes with 429 first
}

func newSink(t *testing.T) (*sink, string) {
	t.Helper()
	s := &sink{store: t.TempDir()}
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	t.Cleanup(func() {
		if len(s.wrong) > 0 {
			t.Errorf("the sink could not take: %q", s.wrong)
		}
	})
	return s, srv.URL
}

func (s *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case r.URL.Path == "/ready":
	case r.URL.Path == "/flush":
		if err := os.WriteFile(filepath.Join(s.store, "block"), make([]byte, 1000), 0o644); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
		}
	case r.URL.Path == "/metrics":
		fmt.Fprintln(w, "go_memstats_heap_inuse_bytes 1.5e+06")
	case r.Method == http.MethodPost:
		s.write(w, r)
	default:
		s.answer(w, r)
	}
}

func (s *sink) write(w http.ResponseWriter, r *http.Request) {
	if s.refuse > 0 {
		s.refuse--
		w.WriteHeader(http.StatusTooManyRequests)
		return
	}
	all, err := decode(r)
	if err != nil {
		s.wrong = append(s.wrong, err.Error())
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for _, ts := range all {
		s.keep(r.Header.Get("X-Scope-OrgID"), ts)
	}
}

func decode(r *http.Request) ([]prompb.TimeSeries, error) {
	packed, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	raw, err := snappy.Decode(nil, packed)
	if err != nil {
		return nil, err
	}
	if r.Header.Get("X-Prometheus-Remote-Write-Version") != "2.0.0" {
		var req prompb.WriteRequest
		err := req.Unmarshal(raw)
		return req.Timeseries, err
	}
	var req writev2.Request
	if err := req.Unmarshal(raw); err != nil {
		return nil, err
	}
	var out []prompb.TimeSeries
	for _, ts := range req.Timeseries {
		if ts.Metadata.Type == 0 || req.Symbols[ts.Metadata.HelpRef] == "" {
			return nil, fmt.Errorf("no metadata: %+v", ts.Metadata)
		}
		out = append(out, fromV2(ts, req.Symbols))
	}
	return out, nil
}

func fromV2(ts writev2.TimeSeries, symbols []string) prompb.TimeSeries {
	var out prompb.TimeSeries
	for i := 0; i < len(ts.LabelsRefs); i += 2 {
		out.Labels = append(out.Labels, prompb.Label{
			Name: symbols[ts.LabelsRefs[i]], Value: symbols[ts.LabelsRefs[i+1]],
		})
	}
	for _, smp := range ts.Samples {
		out.Samples = append(out.Samples, prompb.Sample{Value: smp.Value, Timestamp: smp.Timestamp})
	}
	return out
}

func (s *sink) keep(tenant string, ts prompb.TimeSeries) {
	if s.got == nil {
		s.got, s.labels = map[string]map[string][]prompb.Sample{}, map[string][]prompb.Label{}
	}
	if s.got[tenant] == nil {
		s.got[tenant] = map[string][]prompb.Sample{}
	}
	var key strings.Builder
	for _, l := range ts.Labels {
		key.WriteString(l.Name + "=" + l.Value + ";")
	}
	s.got[tenant][key.String()] = append(s.got[tenant][key.String()], ts.Samples...)
	s.labels[key.String()] = ts.Labels
}

var (
	countSeries  = regexp.MustCompile(`^count\((\w+)\)$`)
	countSamples = regexp.MustCompile(`^sum\(count_over_time\((\w+)\[`)
)

// answer counts for verify; every other query has one series.
func (s *sink) answer(w http.ResponseWriter, r *http.Request) {
	n, expr := 1, r.FormValue("query")
	tenant := r.Header.Get("X-Scope-OrgID")
	if m := countSeries.FindStringSubmatch(expr); m != nil {
		n = s.count(tenant, m[1], func([]prompb.Sample) int { return 1 })
	}
	if m := countSamples.FindStringSubmatch(expr); m != nil {
		n = s.count(tenant, m[1], func(all []prompb.Sample) int { return len(all) })
	}
	fmt.Fprintf(w, `{"status":"success","data":{"version":"0.1","result":[{"metric":{},"value":[1,"%d"]}]}}`, n)
}

func (s *sink) count(tenant, metric string, weigh func([]prompb.Sample) int) int {
	n := 0
	for key, samples := range s.got[tenant] {
		if strings.HasPrefix(key, "__name__="+metric+";") {
			n += weigh(samples)
		}
	}
	return n
}
