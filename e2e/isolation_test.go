package e2e

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/stretchr/testify/require"
)

// poolMates are names of tenants that share one pooled head: its number
// follows from the name alone.
func poolMates(prefix string, n int) (names []string) {
	for i := 0; len(names) < n; i++ {
		name, h := fmt.Sprint(prefix, i, "n"), fnv.New32a()
		_, _ = h.Write([]byte(name))
		if h.Sum32()%4 == 1 {
			names = append(names, name)
		}
	}
	return names
}

// resident is one of several tenants that have the same series at the same
// times. Only the values differ, and what carries the tenant's name. Its
// reference holds what it has written, and nothing else.
type resident struct {
	h       *hearth
	id      string
	n       int64 // its values are around n million
	proto   *protocol
	start   int64 // ms
	ref     *reference
	visitor bool  // it never writes
	next    int64 // number of the next sample under load
	later   int64 // ms that are added to the times of the load
}

const (
	settled    = 40                          // samples written before the load begins
	tick       = 15_000                      // ms between them
	settledEnd = (settled - 1) * int64(tick) // ms after the start
	loadTimes  = 480                         // times of samples written under load, one a second
)

// loadTime is when sample k of the load lies: all over the minutes behind the
// settled samples, so that most come out of order. After a while they repeat.
func (r *resident) loadTime(k int64) int64 {
	return r.start + settledEnd + r.later + 1000*(1+k*389%loadTimes)
}

// at is all that the tenant has at a time: what it is follows from that time.
func (r *resident) at(t int64) []series {
	i := (t - r.start) / 1000
	v := float64(r.n*1_000_000 + i)
	named := func(text string, p point) series {
		p.t = t
		return series{labels: seriesLabels(r.h.t, text), points: []point{p}}
	}
	list := []series{
		named(`load_total{job="api",instance="a"}`, point{v: v}),
		named(`load_total{job="api",instance="b"}`, point{v: 3 * v}),
		named(`depth{job="api","dotted.name"="x"}`, point{v: -v}),
		named(`depth{job="db"}`, point{v: 2 * v}),
		named(`latency_seconds{job="api"}`, point{h: exponential(r.n*1_000_000 + i)}),
		named(`latency_seconds{job="db"}`, point{h: customBuckets(r.n*1_000_000 + i)}),
		named(`target_info{job="api",instance="a",owner="`+r.id+`"}`, point{v: 1}),
		named(fmt.Sprintf(`mark_%s{of=%q,label_of_%s="1"}`, r.id, r.id, r.id), point{v: v}),
	}
	list[0].meta = &metadata.Metadata{Type: model.MetricTypeCounter, Help: "Load of " + r.id + "."}
	list[0].exemplars = []exemplar.Exemplar{{Labels: labels.FromStrings("trace_id", r.id), Value: v, Ts: t, HasTs: true}}
	return list
}

// settle writes what the questions are about.
func (r *resident) settle() {
	for i := range int64(settled) {
		list := r.at(r.start + i*tick)
		r.h.push(r.proto, r.id, list...)
		r.ref.append(list...)
	}
}

// write sends the next sample of the load, again and again until it is stored:
// hearth may be restarting.
func (r *resident) write() error {
	list := r.at(r.loadTime(r.next))
	for i := range list { // the questions are asked meanwhile, and exemplars and metadata know no times
		list[i].exemplars, list[i].meta = nil, nil
	}
	status, answer, err := r.h.send(r.proto, r.id, list...)
	if err != nil || status != r.proto.success {
		return fmt.Errorf("push as %s: %d %s %w", r.id, status, answer, err)
	}
	r.ref.append(list...)
	r.next++
	return nil
}

// crowd is residents of one hearth and all that they are asked.
type crowd struct {
	t         *testing.T
	h         *hearth
	rnd       *rand.Rand
	tenants   []*resident
	neighbour string // a tenant of their pool that is not asked anything
	questions []question
	want      map[*resident][]string // by number of the question
}

// expect asks the references.
func (c *crowd) expect() {
	c.want = map[*resident][]string{}
	for _, r := range c.tenants {
		for _, q := range c.questions {
			want, err := r.ref.put(r.id, q)
			require.NoError(c.t, err, "%s", q)
			c.want[r] = append(c.want[r], want)
		}
	}
}

// ask asks one question as a tenant and says what is wrong with the answer.
func (c *crowd) ask(r *resident, n int) error {
	q := c.questions[n]
	got, err := c.h.put(r.id, q)
	if err != nil {
		return err
	}
	if got != c.want[r][n] {
		return fmt.Errorf("%s is answered to %s otherwise than by a Prometheus of its own: %s", q, r.id, firstDifference(c.want[r][n], got))
	}
	return c.foreign(r.id, got)
}

// foreign finds in an answer what is none of the tenant's business.
func (c *crowd) foreign(id, answer string) error {
	for _, other := range c.tenants {
		if other.id != id && strings.Contains(answer, other.id) {
			return fmt.Errorf("%s is told of %s: %s", id, other.id, around(answer, other.id))
		}
	}
	return hidden(answer)
}

// hidden finds the label by which a pool keeps its tenants apart.
func hidden(answer string) error {
	for _, form := range []string{"\x00", `\x00`, `\u0000`, `\0`, "%00", "U___0_"} {
		if strings.Contains(answer, form) {
			return fmt.Errorf("the answer has %q in it: %q", form, around(answer, form))
		}
	}
	return nil
}

// around shows where a text has a part.
func around(text, part string) string {
	at := strings.Index(text, part)
	return text[max(0, at-200):min(len(text), at+200)]
}

// forgetExemplars leaves out what does not survive a flush and a restart.
func (c *crowd) forgetExemplars() {
	c.questions = slices.DeleteFunc(c.questions, func(q question) bool { return q.path == "query_exemplars" })
	c.expect()
}

// check asks everything as every tenant, or some of it, other parts each time,
// where time is short. Metadata is in memory only.
func (c *crowd) check(when string, metadataKnown bool) {
	c.t.Helper()
	began, n := time.Now(), 0
	for _, r := range c.tenants {
		for i := range c.questions {
			if !long && c.rnd.IntN(3) > 0 {
				continue
			}
			require.NoError(c.t, c.ask(r, i), when)
			n++
		}
		c.checkLimited(r, when)
		c.checkReads(r, when)
		c.checkMetadata(r, when, metadataKnown)
	}
	c.t.Logf("%s: %d answers are right (%s)", when, n, time.Since(began).Round(time.Millisecond))
}

// checkLimited asks for two series of all that a selector matches. Which two,
// an answer need not say, but that it does not have all.
func (c *crowd) checkLimited(r *resident, when string) {
	c.t.Helper()
	at := seconds(r.start + settledEnd)
	for _, x := range []string{`{__name__!=""}`, `load_total`, `{of=~".+"}`} {
		for _, q := range []question{
			{"query", url.Values{"query": {x}, "time": {at}}},
			{"series", url.Values{"match[]": {x}, "start": {at}, "end": {at}}},
		} {
			_, all := r.ref.api("", q.path, q.params)
			q.params.Set("limit", "2")
			_, some := c.h.api(r.id, q.path, q.params)
			want, got := elements(c.t, all.Data), elements(c.t, some.Data)
			require.Len(c.t, got, min(2, len(want)), "%s, %s, %s", when, r.id, q)
			require.Subset(c.t, want, got, "%s, %s, %s", when, r.id, q)
			require.Equal(c.t, len(want) > 2, len(some.Warnings) > 0, "%s, %s, %s", when, r.id, q)
		}
	}
}

// elements are the series in an answer's data, as texts.
func elements(t testing.TB, data json.RawMessage) (texts []string) {
	t.Helper()
	var list []any
	if json.Unmarshal(data, &list) != nil {
		var vector struct{ Result []any }
		require.NoError(t, json.Unmarshal(data, &vector))
		list = vector.Result
	}
	for _, e := range list {
		texts = append(texts, asJSON(e))
	}
	return texts
}

// checkReads reads as samples and as chunks, over all times.
func (c *crowd) checkReads(r *resident, when string) {
	c.t.Helper()
	for _, ms := range matcherSets(c.t) {
		if !long && c.rnd.IntN(3) > 0 {
			continue
		}
		want, err := r.ref.read("", 0, endOfTime, ms...)
		require.NoError(c.t, err)
		got, err := c.h.read(r.id, 0, endOfTime, ms...)
		require.NoError(c.t, err, "%s, %v", when, ms)
		require.Empty(c.t, sameStored(want, got), "%s, %s, %v", when, r.id, ms)
		got, err = c.h.readChunks(r.id, 0, endOfTime, ms...)
		require.NoError(c.t, err, "%s, %v", when, ms)
		require.Empty(c.t, sameStored(want, got), "%s, %s, %v as chunks", when, r.id, ms)
	}
	// No client asks without any matcher, and Prometheus answers with nothing.
	got, err := c.h.read(r.id, 0, endOfTime)
	require.NoError(c.t, err)
	want, err := r.ref.read("", 0, endOfTime, everything())
	require.NoError(c.t, err)
	for name, points := range got {
		for at, p := range points {
			require.Empty(c.t, p.differs(want[name][at]), "%s, %s, no matchers: %s", when, r.id, name)
		}
	}
}

func (c *crowd) checkMetadata(r *resident, when string, known bool) {
	c.t.Helper()
	for _, params := range []string{"", "?metric=load_total", "?limit=1", "?metric=nothing", "?limit_per_metric=1"} {
		status, body, err := c.h.do(http.MethodGet, "/prometheus/api/v1/metadata"+params, r.id, nil, nil)
		require.NoError(c.t, err)
		require.Equal(c.t, http.StatusOK, status)
		want := `{"load_total":[{"type":"counter","unit":"","help":"Load of ` + r.id + `."}]}`
		if !known || strings.Contains(params, "nothing") || r.visitor {
			want = `{}`
		}
		require.JSONEq(c.t, `{"status":"success","data":`+want+`}`, body, "%s, %s, %s", when, r.id, params)
	}
}

// load lets all tenants write n samples each, and more until meanwhile has
// ended, while questions are asked as all of them and a neighbour makes series
// of the same names.
func (c *crowd) load(n int, meanwhile func()) {
	c.t.Helper()
	var (
		writers, readers sync.WaitGroup
		failures         = make(chan error, 100)
		ended, written   atomic.Bool
		asked            atomic.Int64
	)
	fail := func(err error) {
		select {
		case failures <- err:
		default:
		}
	}
	for _, r := range c.tenants {
		writers.Go(func() {
			for k := 0; (k < n || !ended.Load()) && len(failures) == 0 && !r.visitor; k++ {
				if err := r.write(); err != nil {
					fail(err)
				}
			}
		})
	}
	for range 3 {
		seed := c.rnd.Uint64()
		readers.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, 2))
			for !written.Load() && len(failures) == 0 {
				if err := c.ask(c.tenants[rnd.IntN(len(c.tenants))], rnd.IntN(len(c.questions))); err != nil {
					fail(err)
				}
				asked.Add(1)
			}
		})
	}
	readers.Go(func() {
		for k := 0; !written.Load() && len(failures) == 0; k++ {
			if err := c.churn(k); err != nil {
				fail(err)
			}
		}
	})
	meanwhile()
	ended.Store(true)
	writers.Wait()
	written.Store(true)
	readers.Wait()
	select {
	case err := <-failures:
		c.t.Fatalf("under load: %v", err)
	default:
	}
	c.t.Logf("%d questions were asked under load", asked.Load())
}

// churn writes series as a tenant that is not of the crowd: of the crowd's
// names, but always new ones.
func (c *crowd) churn(k int) error {
	id, like := c.neighbour, c.tenants[0]
	list := like.at(like.loadTime(int64(k)))
	for i := range list {
		b := labels.NewBuilder(list[i].labels)
		b.Set("churn", fmt.Sprint(k%500)).Set("owner", id).Set("of", id)
		list[i].labels = b.Labels()
		list[i].exemplars, list[i].meta = nil, &metadata.Metadata{Type: model.MetricTypeGauge, Help: "Churn."}
	}
	status, answer, err := c.h.send(remoteWrite2, id, list...)
	if err != nil || status != remoteWrite2.success {
		return fmt.Errorf("push as %s: %d %s %w", id, status, answer, err)
	}
	return nil
}

// startCrowd has residents of one pool, one in a head of its own, and in both
// places one that never writes, and settles them.
func startCrowd(t *testing.T, rnd *rand.Rand) *crowd {
	pooled, own := poolMates("kestrel", 5), poolMates("osprey", 2)
	c := &crowd{t: t, rnd: rnd, neighbour: pooled[4], h: startHearth(t, "ingester.block_range=5m", "limits.defaults.creation_grace_period=1h",
		"limits.tenants."+own[0]+"={own_head: true}", "limits.tenants."+own[1]+"={own_head: true}")}
	start := time.Now().Add(-time.Duration(settledEnd) * time.Millisecond).Truncate(time.Minute).UnixMilli()
	for i, id := range slices.Concat(pooled[:4], own) {
		r := &resident{h: c.h, id: id, n: int64(i + 1), proto: protocols[i%2], start: start, ref: newReference(t), visitor: id == pooled[3] || id == own[1]}
		c.tenants = append(c.tenants, r)
		if !r.visitor {
			r.settle()
		}
	}
	c.questions = questions(start)
	c.expect()
	return c
}

// TestIsolation: each of several tenants with the same series is answered as
// by a Prometheus of its own that has only what it wrote, wherever its series
// lie, while they move, and under load.
func TestIsolation(t *testing.T) {
	t.Parallel()
	rnd := newRand(t, uint64(time.Now().UnixNano()))
	n := 60
	if long {
		n = 200
	}
	c := startCrowd(t, rnd)
	c.wantOwnHeads(1)
	c.check("from heads", true)
	c.h.flush()
	c.check("from local blocks", true)
	c.load(n, func() { c.h.flush() })

	c.forgetExemplars()
	c.restart("limits.tenants." + c.tenants[1].id + "={own_head: true}")
	c.load(n, func() { c.h.flush(c.tenants[0].id) })
	c.wantOwnHeads(2)
	c.check("from a pool and an own head", false)
	c.checkLoaded()
	if long {
		c.outgrow(n)
	}
	c.checkPages()

	c.h.flush()
	c.h.forgetRecent()
	c.check("from the bucket alone", false)
	c.checkLoaded()
}

// outgrow has all tenants that write grow out of the pool while they write.
func (c *crowd) outgrow(n int) {
	c.t.Helper()
	c.restart("ingester.own_head_above=8")
	moved := `hearth_ingester_heads{head="own"}`
	c.load(n, func() {
		until(c.t, patience, "tenants to get heads of their own", func() error {
			if got := c.h.metric(moved); got < 5 { // the neighbour's too
				return fmt.Errorf("%v have", got)
			}
			return nil
		})
	})
	for _, r := range c.tenants {
		r.later += 15 * time.Minute.Milliseconds() // where their own heads begin
	}
	c.load(n, func() { c.h.flush() })
	c.check("from own heads", false)
	c.checkLoaded()
}

func (c *crowd) restart(set string) {
	c.t.Helper()
	c.h.set = append(c.h.set, set)
	c.h.stop()
	c.h.start()
}

func (c *crowd) wantOwnHeads(n float64) {
	c.t.Helper()
	require.Equal(c.t, n, c.h.metric(`hearth_ingester_heads{head="own"}`))
}

// checkLoaded asks about what was written under load, before and behind the
// time from which on a tenant has a head of its own.
func (c *crowd) checkLoaded() {
	c.t.Helper()
	settledOnes, want := c.questions, c.want
	defer func() { c.questions, c.want = settledOnes, want }()
	c.questions = nil
	r := c.tenants[0]
	end := r.start + settledEnd + r.later + loadTimes*1000
	for _, x := range expressions() {
		c.questions = append(c.questions,
			question{"query_range", rangeParams(x, r.start, end, 20_000)},
			question{"query", url.Values{"query": {x}, "time": {seconds(end)}}})
	}
	if !long {
		c.rnd.Shuffle(len(c.questions), func(i, j int) { c.questions[i], c.questions[j] = c.questions[j], c.questions[i] })
		c.questions = c.questions[:len(c.questions)/3]
	}
	c.expect()
	for _, r := range c.tenants {
		for i := range c.questions {
			require.NoError(c.t, c.ask(r, i))
		}
	}
}

// checkPages looks at what operators see.
func (c *crowd) checkPages() {
	c.t.Helper()
	for _, path := range []string{"/", "/metrics", "/services", "/config", "/config?mode=diff", "/ingester/flush?wait=true"} {
		status, body, err := c.h.get(path)
		require.NoError(c.t, err)
		require.Equal(c.t, http.StatusOK, status, path)
		require.NoError(c.t, hidden(body), path)
		if path == "/metrics" {
			require.NoError(c.t, c.foreign("", body))
		}
	}
	var info json.RawMessage
	c.h.ask(c.tenants[0].id, "status/buildinfo", nil, &info)
	require.NoError(c.t, c.foreign(c.tenants[0].id, string(info)))
}
