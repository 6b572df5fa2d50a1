package querier

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/hearth-metrics/hearth/tenant"
)

func TestConfig(t *testing.T) {
	t.Parallel()
	require.NoError(t, DefaultConfig().Validate())
	require.GreaterOrEqual(t, DefaultConfig().slots(), 4)
	for _, change := range []func(*Config){
		func(c *Config) { c.Timeout = 0 },
		func(c *Config) { c.MaxConcurrent = -1 },
		func(c *Config) { c.LookbackDelta = 0 },
	} {
		c := DefaultConfig()
		change(&c)
		require.Error(t, c.Validate())
	}
	c := DefaultConfig()
	require.NoError(t, yaml.Unmarshal([]byte("timeout: 30s\nmax_concurrent: 7"), &c))
	require.Equal(t, 7, c.slots())
	require.Equal(t, 30*time.Second, time.Duration(c.Timeout))
	require.Equal(t, 5*time.Minute, time.Duration(c.LookbackDelta))
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	q := &Querier{cfg: Config{Timeout: model.Duration(time.Minute)}}
	for param, want := range map[string]time.Duration{
		"": time.Minute, "10": 10 * time.Second, "1.5": 1500 * time.Millisecond, "20s": 20 * time.Second, "2m": time.Minute, "1e99": time.Minute, "NaN": time.Minute,
		"0": time.Minute, "-3": time.Minute, "0s": time.Minute, "Inf": time.Minute, "-Inf": time.Minute, "x": time.Minute, "60": time.Minute,
	} {
		require.Equal(t, want, q.timeout(&tenant.Limits{}, params("timeout", param)), param)
	}
	short := &tenant.Limits{QueryTimeout: model.Duration(5 * time.Second)}
	require.Equal(t, 5*time.Second, q.timeout(short, params("timeout", "10")))
	require.Equal(t, 3*time.Second, q.timeout(short, params("timeout", "3")))
	long := &tenant.Limits{QueryTimeout: model.Duration(time.Hour)}
	require.Equal(t, time.Minute, q.timeout(long, params()))
}

// slowWriter is a client that reads its answer when told.
type slowWriter struct {
	*httptest.ResponseRecorder
	began chan struct{}
	read  chan struct{}
}

func (w *slowWriter) Write(b []byte) (int, error) {
	close(w.began)
	<-w.read
	return w.ResponseRecorder.Write(b)
}

// A client that reads slowly does not hold its turn.
func TestSlowReaderHoldsNoTurn(t *testing.T) {
	t.Parallel()
	h := newHouse(t, map[tenant.ID]*tsdb.DB{}, 0, 0, func(c *Config) { c.MaxConcurrent = 1 })
	w := &slowWriter{httptest.NewRecorder(), make(chan struct{}), make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		r := httptest.NewRequest("GET", "/prometheus/api/v1/query?query=1", nil)
		h.router.ServeHTTP(w, r.WithContext(tenant.WithID(r.Context(), alice)))
	}()
	<-w.began
	require.Equal(t, 200, h.do(bob, request{path: instant, form: params("query", "1")}).Code)
	close(w.read)
	<-done
	require.Equal(t, 200, w.Code)
	require.Contains(t, w.Body.String(), "success")
	h.allClosed(t)
}

// Whatever is sent, the answer is an envelope, and nothing stays open.
func FuzzQueryAPI(f *testing.F) {
	for _, row := range answers() {
		f.Add(row.path, row.form.Encode(), "")
		f.Add(row.path, "", row.form.Encode())
	}
	f.Add("/query", "query=%zz", "query=1")
	f.Add("/metadata", "limit=1&limit_per_metric=x&metric=up", "")
	f.Add("/query", "query="+strings.Repeat("(", 1000), "")
	db := newDB(f)
	fill(f, db, "x")
	h := newHouse(f, map[tenant.ID]*tsdb.DB{alice: db}, t0+hour, 10*minute, func(c *Config) { c.Timeout = model.Duration(5 * time.Second) })
	h.limits.MaxSamplesPerQuery = 100_000
	h.limits.MaxQueryLength = model.Duration(24 * time.Hour)
	f.Fuzz(func(t *testing.T, path, query, body string) {
		req, err := http.NewRequest(http.MethodPost, "http://host/", strings.NewReader(body))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if body == "" {
			req.Method = http.MethodGet
		}
		req.URL.Path, req.URL.RawQuery = "/prometheus/api/v1"+path, query
		if strings.HasSuffix(path, "/read") {
			t.Skip("no envelope there")
		}
		w := httptest.NewRecorder()
		h.router.ServeHTTP(w, req.WithContext(tenant.WithID(req.Context(), alice)))
		switch w.Code {
		case 204, 301, 404, 405: // no data, or not our path
			return
		}
		var e envelope
		if err := json.Unmarshal(w.Body.Bytes(), &e); err != nil {
			t.Fatalf("%d %q: %v", w.Code, w.Body, err)
		}
		if ok := w.Code == 200; ok != (e.Status == "success") || ok != (e.Error == "") {
			t.Fatalf("%d %q", w.Code, w.Body)
		}
		if w.Code >= 500 && w.Code != 503 {
			t.Fatalf("%d %q", w.Code, w.Body)
		}
		h.allClosed(t)
	})
}
