//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log" //nolint:depguard // ReverseProxy takes no other logger
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// realPrometheus is a real Prometheus.
type realPrometheus struct {
	endpoint
	cmd     *exec.Cmd
	exited  chan struct{}
	dir     string
	logFile string
}

// realTool is the path of a program of Prometheus.
func realTool(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join("..", ".cache", name)
	if p := os.Getenv("HEARTH_E2E_PROMETHEUS"); p != "" {
		path = filepath.Join(filepath.Dir(p), name)
	}
	path, err := filepath.Abs(path)
	require.NoError(t, err)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("no %s: %v (make tools builds it)", name, err)
	}
	return path
}

// startPrometheus starts one with a configuration, and more arguments if given,
// and waits until it is ready.
func startPrometheus(t testing.TB, config string, more ...string) *realPrometheus {
	t.Helper()
	return prometheusIn(t, t.TempDir(), config, more...)
}

// prometheusIn is startPrometheus in a folder, where its data may be already,
// below "data".
func prometheusIn(t testing.TB, dir, config string, more ...string) *realPrometheus {
	t.Helper()
	path := realTool(t, "prometheus")
	p := &realPrometheus{endpoint: newEndpoint(t, ""), dir: dir, logFile: filepath.Join(dir, "log")}
	p.writeConfig(config)
	out, err := os.Create(p.logFile)
	require.NoError(t, err)
	defer out.Close()
	// Where it runs is where its rule files are, and their names are short.
	args := []string{
		"--config.file=config.yml", "--web.enable-remote-write-receiver", "--storage.tsdb.path=" + filepath.Join(dir, "data"),
		"--web.listen-address=127.0.0.1:0", "--enable-feature=exemplar-storage,metadata-wal-records,promql-experimental-functions",
	}
	p.cmd = exec.Command(path, append(args, more...)...)
	p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = dir, out, out
	p.exited = spawn(t, p.cmd)
	t.Cleanup(p.stop)
	until(t, patience, "Prometheus to be ready", p.ready)
	return p
}

func (p *realPrometheus) writeConfig(config string) {
	p.t.Helper()
	require.NoError(p.t, os.WriteFile(filepath.Join(p.dir, "config.yml"), []byte(config), 0o666))
}

// reload has it go on with another configuration.
func (p *realPrometheus) reload(config string) {
	p.t.Helper()
	p.writeConfig(config)
	loaded := func() int {
		text, err := os.ReadFile(p.logFile)
		require.NoError(p.t, err)
		return bytes.Count(text, []byte("Completed loading of configuration file"))
	}
	before := loaded()
	require.NoError(p.t, p.cmd.Process.Signal(syscall.SIGHUP))
	until(p.t, patience, "Prometheus to reload", func() error {
		if loaded() == before {
			return errors.New("not yet")
		}
		return nil
	})
}

var listening = regexp.MustCompile(`msg="Listening on".* address=(\S+)`)

func (p *realPrometheus) ready() error {
	text, err := os.ReadFile(p.logFile)
	if err != nil {
		return err
	}
	select {
	case <-p.exited:
		p.t.Fatalf("Prometheus has ended: %s\n%s", p.cmd.ProcessState, text)
	default:
	}
	m := listening.FindSubmatch(text)
	if m == nil {
		return errors.New("it does not listen yet")
	}
	p.url = "http://" + string(m[1])
	status, _, err := p.get("/-/ready")
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("status %d", status)
	}
	return err
}

func (p *realPrometheus) stop() {
	_ = p.cmd.Process.Kill() // an error says that it is gone already
	<-p.exited
	if p.t.Failed() {
		text, _ := os.ReadFile(p.logFile)
		p.t.Logf("end of the log of Prometheus:\n%s", text[max(0, len(text)-4000):])
	}
}

// door is an address that stays while the server behind it comes and goes. If
// there is none, connections break.
type door struct {
	*httptest.Server
	to atomic.Pointer[url.URL]
}

func newDoor(t testing.TB) *door {
	d := &door{}
	transport := &http.Transport{}
	d.Server = httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			to := d.to.Load()
			if to == nil {
				to = &url.URL{Scheme: "http", Host: "127.0.0.1:1"}
			}
			r.SetURL(to)
		},
		Transport:    transport,
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		ErrorLog:     log.New(io.Discard, "", 0),
	})
	t.Cleanup(func() {
		d.Close()
		transport.CloseIdleConnections()
	})
	return d
}

func (d *door) lead(t testing.TB, address string) {
	u, err := url.Parse(address)
	require.NoError(t, err)
	d.to.Store(u)
}

func (d *door) host() string { return strings.TrimPrefix(d.URL, "http://") }

const externalLabel = "written_by"

// scene is Prometheus, what it scrapes, and the Hearth that it writes into.
type scene struct {
	t          *testing.T
	h          *hearth
	p          *realPrometheus
	start, end int64 // ms; between them questions are asked
}

// queues are the tenants that Prometheus writes as, one in each protocol.
var queues = []string{"rw1", "rw2"}

func (s *scene) config(hearthDoor, selfDoor, shop string) string {
	config := fmt.Sprintf(`
global:
  scrape_interval: 1s
  scrape_native_histograms: true
  external_labels: {%s: e2e}
scrape_configs:
  - {job_name: hearth, static_configs: [{targets: [%q]}]}
  - {job_name: prometheus, static_configs: [{targets: [%q]}]}
  - {job_name: native, always_scrape_classic_histograms: true, static_configs: [{targets: [%q]}]}
  - {job_name: openmetrics, scrape_native_histograms: false, scrape_protocols: [OpenMetricsText1.0.0], static_configs: [{targets: [%q]}]}
remote_write:
`, externalLabel, hearthDoor, selfDoor, shop, shop)
	for i, message := range []string{"prometheus.WriteRequest", "io.prometheus.write.v2.Request"} {
		config += fmt.Sprintf(`
  - url: http://%s/api/v1/push
    headers: {X-Scope-OrgID: %s}
    protobuf_message: %s
    send_exemplars: true
    send_native_histograms: true
    queue_config: {batch_send_deadline: 200ms, max_backoff: 500ms}
    metadata_config: {send_interval: 1s}
`, hearthDoor, queues[i], message)
	}
	return config
}

// scrapes waits until Prometheus has scraped the shop n times more.
func (s *scene) scrapes(n float64) {
	s.t.Helper()
	count := func() float64 {
		res := s.p.instant("", `sum(count_over_time(up{job="native"}[1h]))`, time.Now().UnixMilli())
		if len(res.Samples) == 0 {
			return 0
		}
		var v float64
		_, err := fmt.Sscan(res.Samples[0].Value[1].(string), &v)
		require.NoError(s.t, err)
		return v
	}
	first := count()
	until(s.t, patience, "Prometheus to scrape", func() error {
		if got := count() - first; got < n {
			return fmt.Errorf("%v times of %v", got, n)
		}
		return nil
	})
}

// TestPrometheus: a real Prometheus scrapes, and writes into Hearth by both
// protocols. Hearth is killed meanwhile and started again. Then it answers
// everything as Prometheus itself does.
func TestPrometheus(t *testing.T) {
	t.Parallel()
	shop := httptest.NewServer(newExporter(newRand(t, uint64(time.Now().UnixNano()))))
	t.Cleanup(shop.Close)
	hearthDoor, selfDoor := newDoor(t), newDoor(t)
	s := &scene{t: t, h: startHearth(t, "limits.tenants.rw2={own_head: true}")}
	hearthDoor.lead(t, s.h.url)
	s.start = time.Now().UnixMilli()
	config := s.config(hearthDoor.host(), selfDoor.host(), strings.TrimPrefix(shop.URL, "http://"))
	s.p = startPrometheus(t, config)
	selfDoor.lead(t, s.p.url)

	s.scrapes(8)
	s.h.kill()
	s.scrapes(5)
	s.h.start()
	hearthDoor.lead(t, s.h.url)
	s.scrapes(8)
	// Not of 2.0: with the series it sends what is in its log, and this version
	// has a flag to put metadata there, which its storage is not told.
	s.compareMetadata("rw1")
	// Nothing is scraped that belongs to no time that is compared: a head of
	// Prometheus names series of all times, a pool of Hearth those of the times
	// that were asked for.
	s.p.reload(strings.Replace(config, "scrape_interval: 1s", "scrape_interval: 1000h", 1))
	s.end = time.Now().UnixMilli()

	s.h.strip, s.p.strip = externalLabel, externalLabel
	for _, id := range queues {
		s.compareSamples(id)
		s.compareAnswers(id)
	}
	s.h.flush()
	for _, id := range queues {
		s.compareAnswers(id)
	}
	s.readBack()
}

// TestPrometheusIntoACluster: a real Prometheus writes into a cluster of which
// one process after the other is restarted, always the one that it speaks with.
// It tries again, by both protocols, and in the end every process answers with
// what Prometheus has itself.
func TestPrometheusIntoACluster(t *testing.T) {
	t.Parallel()
	shop := httptest.NewServer(newExporter(newRand(t, uint64(time.Now().UnixNano()))))
	t.Cleanup(shop.Close)
	c := newCluster(t)
	c.add("node", 3, []string{"a", "b", "c"}, "")
	c.awaitRing(3)
	hearthDoor, selfDoor := newDoor(t), newDoor(t)
	s := &scene{t: t}
	hearthDoor.lead(t, c.nodes[0].url)
	s.start = time.Now().UnixMilli()
	s.p = startPrometheus(t, s.config(hearthDoor.host(), selfDoor.host(), strings.TrimPrefix(shop.URL, "http://")))
	selfDoor.lead(t, s.p.url)
	s.scrapes(3)
	for _, n := range c.nodes {
		hearthDoor.lead(t, n.url)
		s.scrapes(2)
		n.stopCleanly()
		s.scrapes(2)
		n.startAgain()
		hearthDoor.lead(t, n.url)
		c.awaitRing(3)
	}
	s.scrapes(3)
	s.end = time.Now().UnixMilli()
	s.scrapes(2)
	s.p.strip = externalLabel
	for _, n := range c.nodes {
		s.h = n.hearth
		s.h.strip = externalLabel
		for _, id := range queues {
			s.compareSamples(id)
		}
	}
	for _, what := range []string{"samples_failed_total", "samples_dropped_total"} {
		lost := s.p.instant("", "sum(prometheus_remote_storage_"+what+")", time.Now().UnixMilli())
		for _, v := range lost.Samples {
			require.Equal(t, "0", v.Value[1], what)
		}
	}
}

// compareSamples waits until Hearth has every sample that Prometheus has. Both
// are asked again each time: a scrape that was begun before s.end may end later.
func (s *scene) compareSamples(id string) {
	s.t.Helper()
	began := time.Now()
	everything := fmt.Sprintf(`{job=~".+"}[%dms]`, s.end-s.start)
	q := question{"query", url.Values{"query": {everything}, "time": {seconds(s.end)}}}
	until(s.t, patience, "all samples", func() error {
		want, err := s.p.put("", q)
		require.NoError(s.t, err)
		got, err := s.h.put(id, q)
		if err == nil && got != want {
			err = fmt.Errorf("as %s: %s", id, firstDifference(want, got))
		}
		return err
	})
	samples := 0
	for _, series := range s.p.instant("", everything, s.end).Samples {
		samples += len(series.Values) + len(series.Histograms)
	}
	require.Greater(s.t, samples, 10_000, "Prometheus has scraped")
	s.t.Logf("%s has the same %d samples as Prometheus (%s)", id, samples, time.Since(began).Round(time.Millisecond))
}

var prometheusExpressions = []string{
	`up`, `{job=~"native|openmetrics"}`, `sum by (job) (up)`, `rate(shop_orders_total[10s])`, `sum by (kind) (increase(shop_orders_total[20s]))`, `resets(shop_orders_total[1m])`,
	`histogram_quantile(0.9, sum by (le) (rate(shop_order_size_bytes_bucket[10s])))`, `histogram_quantile(0.9, rate(shop_latency_seconds[10s]))`,
	`histogram_quantile(0.5, sum by (kind) (rate(shop_latency_seconds{job="native"}[15s])))`, `shop_latency_seconds`, `histogram_fraction(0, 1, shop_latency_seconds)`,
	`topk(3, shop_queue_length)`, `absent(shop_visitors{name="v1"})`, `shop_visitors`, `count_over_time(shop_visitors[1m])`, `{"shop.temperature"}`, `avg_over_time({"shop.temperature"}[10s])`,
	`shop_payment_euros`, `label_replace(up, "host", "$1", "instance", "(.*):.*")`, `shop_queue_length / on (job, instance) group_left up`, `max_over_time(shop_queue_length[5s] offset 3s)`,
	`min_over_time(rate(shop_orders_total[5s])[20s:2s])`, `scrape_samples_scraped`, `count by (job) ({job=~".+"})`, `sum(rate(hearth_http_request_duration_seconds_count[10s]))`,
	`histogram_quantile(0.99, rate(prometheus_http_request_duration_seconds[10s]))`, `changes(up[1m])`, `hearth_distributor_requests_total`, `count_values("v", up)`, `quantile by (job) (0.3, {job=~".+",le=""})`,
}

func (s *scene) questions() (out []question) {
	from, to := seconds(s.start), seconds(s.end)
	between := func(params ...string) url.Values {
		v := url.Values{"start": {from}, "end": {to}}
		for i := 0; i < len(params); i += 2 {
			v.Add(params[i], params[i+1])
		}
		return v
	}
	for _, x := range prometheusExpressions {
		out = append(out,
			question{"query", url.Values{"query": {x}, "time": {to}}},
			question{"query", url.Values{"query": {x}, "time": {seconds((s.start + s.end) / 2)}}},
			question{"query_range", rangeParams(x, s.start, s.end, 1000)},
			question{"query_range", rangeParams(x, s.start, s.end, 3700)},
			question{"query_exemplars", between("query", x)})
	}
	out = append(out, question{"labels", between()}, question{"query_exemplars", between("query", `{job=~".+"}`)})
	for _, match := range []string{`{job=~".+"}`, `{job="native"}`, `{__name__=~"shop.*",kind!="retail"}`, `{"shop.temperature"}`, `up`, `nothing`} {
		out = append(out, question{"series", between("match[]", match)}, question{"labels", between("match[]", match)})
	}
	for _, name := range []string{"__name__", "job", "instance", "le", "quantile", "kind", "name", "code", "nothing"} {
		out = append(out, question{"label/" + name + "/values", between()}, question{"label/" + name + "/values", between("match[]", `{job="native"}`)})
	}
	return out
}

// difference is how Hearth's answer differs from that of Prometheus, "" if it
// does not.
func (s *scene) difference(id string, q question) string {
	s.t.Helper()
	want, err := s.p.put("", q)
	require.NoError(s.t, err)
	got, err := s.h.put(id, q)
	require.NoError(s.t, err)
	if got == want {
		return ""
	}
	return firstDifference(want, got)
}

func (s *scene) compareAnswers(id string) {
	s.t.Helper()
	questions := s.questions()
	for _, q := range questions {
		if difference := s.difference(id, q); difference != "" {
			s.t.Errorf("%s, %s: %s", id, q, difference)
		}
	}
	s.t.Logf("%s: %d answers compared", id, len(questions))
}

// compareMetadata finds a description for all that is scraped. In remote write
// 1.0 families are described, in 2.0 series.
func (s *scene) compareMetadata(id string) {
	s.t.Helper()
	type description struct{ Type, Help, Unit string }
	var want, got map[string][]description
	family := func(name string) string {
		for _, suffix := range []string{"_bucket", "_count", "_sum"} {
			if f := strings.TrimSuffix(name, suffix); f != name && want[f] != nil {
				return f
			}
		}
		return name
	}
	until(s.t, patience, "metadata of everything", func() error {
		clear(want)
		clear(got)
		s.p.ask("", "metadata", nil, &want)
		require.Contains(s.t, want, "shop_latency_seconds")
		s.h.ask(id, "metadata", nil, &got)
		described := map[string]bool{}
		for name, list := range got {
			f := family(name)
			described[f] = true
			if !sameElements(want[f], list) {
				return fmt.Errorf("%s: %s is described as %v, want %v", id, name, list, want[f])
			}
		}
		for f := range want {
			if !described[f] {
				return fmt.Errorf("%s: %s is not described", id, f)
			}
		}
		return nil
	})
}

func sameElements[E comparable](a, b []E) bool {
	count := map[E]int{}
	for _, e := range a {
		count[e]++
	}
	for _, e := range b {
		count[e]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}

// readBack lets another Prometheus, which has nothing, read from Hearth.
func (s *scene) readBack() {
	s.t.Helper()
	for _, id := range queues {
		reader := startPrometheus(s.t, fmt.Sprintf(`
global:
  external_labels: {%s: e2e}
remote_read:
  - url: %s/prometheus/api/v1/read
    read_recent: true
    headers: {X-Scope-OrgID: %s}
`, externalLabel, s.h.url, id))
		reader.strip = externalLabel
		for _, x := range []string{`{job=~"native|openmetrics"}`, `rate(shop_orders_total[10s])`, `histogram_quantile(0.9, rate(shop_latency_seconds[10s]))`, `count({job=~".+"})`} {
			q := question{"query_range", rangeParams(x, s.start, s.end, 1000)}
			want, err := s.p.put("", q)
			require.NoError(s.t, err)
			got, err := reader.put("", q)
			require.NoError(s.t, err)
			if got != want {
				s.t.Errorf("%s through remote read, %s: %s", id, x, firstDifference(want, got))
			}
		}
	}
	var matched json.RawMessage
	s.h.ask(queues[0], "labels", nil, &matched)
	require.Contains(s.t, string(matched), externalLabel)
}
