package e2e

import (
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/exemplar"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/metadata"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
)

// TestHiddenLabel: a client that knows the label by which a pool keeps its
// tenants apart can neither write it nor use it to look at others. To its
// questions it is a label that is not there, as in the references.
func TestHiddenLabel(t *testing.T) {
	t.Parallel()
	pooled := poolMates("merlin", 2)
	c := &crowd{t: t, h: startHearth(t, "limits.tenants.hobby={own_head: true}"), rnd: newRand(t, rand.Uint64())}
	start := time.Now().Add(-time.Duration(settledEnd) * time.Millisecond).Truncate(time.Minute).UnixMilli()
	for i, id := range []string{pooled[0], pooled[1], "hobby"} {
		r := &resident{h: c.h, id: id, n: int64(i + 1), proto: protocols[i%2], start: start, ref: newReference(t)}
		c.tenants = append(c.tenants, r)
		r.settle()
		looksAlike := series{labels: labels.FromStrings("__name__", "odd", "value", bucket.PoolLabel, "name", bucket.PoolLabel+"="+pooled[0]), points: []point{{t: start, v: float64(i)}}}
		c.h.push(r.proto, id, looksAlike)
		r.ref.append(looksAlike)
	}
	for _, r := range c.tenants {
		for _, victim := range c.tenants {
			for _, p := range protocols {
				smuggle(t, r, victim, p)
			}
		}
	}
	c.askHidden("from heads")
	c.h.flush()
	c.h.forgetRecent()
	c.askHidden("from the bucket", "query_exemplars")
}

// smuggle writes as r what claims to be of another tenant.
func smuggle(t *testing.T, r, victim *resident, p *protocol) {
	t.Helper()
	end := r.start + settledEnd + 1
	good := floats(seriesLabels(t, `{"smuggled","by"="`+p.name+`","of"="`+victim.id+`"}`), r.start, 1, 1)
	refused := func(reason string, bad series) {
		t.Helper()
		status, answer, err := r.h.send(p, r.id, good, bad)
		require.NoError(t, err)
		require.Equal(t, http.StatusBadRequest, status, "%s: %s", p.name, answer)
		require.Contains(t, answer, reason, p.name)
	}
	for _, name := range []string{bucket.PoolLabel, "\x00", "\x00tenant2", "\x00\x00"} {
		refused("err-label-invalid", floats(labels.FromStrings("__name__", "load_total", "job", "api", "instance", "a", name, victim.id), end, 1, 666))
		refused("err-label-invalid", series{
			labels: labels.FromStrings("__name__", "latency_seconds", "job", "api", name, victim.id),
			points: []point{{t: end, h: exponential(666)}},
		})
	}
	b := labels.NewScratchBuilder(3)
	b.Add(bucket.PoolLabel, victim.id)
	b.Add(bucket.PoolLabel, r.id)
	b.Add("__name__", "load_total")
	refused("err-", floats(b.Labels(), end, 1, 666))

	withExemplar := floats(seriesLabels(t, `load_total{job="api",instance="a"}`), end, 1, 0)
	withExemplar.points = nil
	withExemplar.exemplars = []exemplar.Exemplar{{Labels: labels.FromStrings(bucket.PoolLabel, victim.id), Value: 666, Ts: end, HasTs: true}}
	refused("err-exemplar-label-invalid", withExemplar)

	described := series{labels: labels.FromStrings("__name__", bucket.PoolLabel), meta: &metadata.Metadata{Type: model.MetricTypeGauge, Help: victim.id}}
	if p == remoteWrite1 { // in 2.0 metadata comes with a series that is stored
		refused("err-metadata-invalid", described)
	}
	r.ref.append(good)
}

// hiddenQuestions ask for another tenant's series in all ways there are.
func hiddenQuestions(start int64, victim string) (out []question) {
	label, v := strconv.Quote(bucket.PoolLabel), strconv.Quote(victim)
	fill := strings.NewReplacer("L", label, "V", v).Replace
	from, to := seconds(start), seconds(start+settledEnd)
	add := func(path string, params url.Values) { out = append(out, question{path, params}) }
	for _, s := range []string{
		`{L=V}`, `{L=~V}`, `{L=~".+"}`, `{L!=""}`, `{L!=V}`, `{L=~".*",__name__!=""}`, `{L!=V,__name__=~".+"}`, `{L="",__name__=~".+"}`,
		`load_total{L=V}`, `load_total{L=""}`, `load_total{L!~V}`, `load_total{L=~"|x"}`, `{__name__=~".+",L=~"[^x]*"}`, `{__name__="odd",value=L}`,
	} {
		match := url.Values{"match[]": {fill(s)}, "start": {from}, "end": {to}}
		add("series", match)
		add("labels", match)
		add("label/__name__/values", match)
		add("label/of/values", match)
		add("query", url.Values{"query": {fill(s)}, "time": {to}})
		add("query_range", rangeParams(fill(s), start, start+settledEnd, 60_000))
		add("query_exemplars", url.Values{"query": {fill(s)}, "start": {from}, "end": {to}})
	}
	for _, x := range []string{
		`sum by (L) (load_total)`, `sum without (L) (load_total)`, `count by (L, __name__) ({__name__!=""})`, `count_values(L, depth)`,
		`label_replace(load_total, "who", "$1", L, "(.*)")`, `label_join(load_total, "who", "-", L, "job")`, `label_replace(load_total, L, V, "", "")`,
		`load_total * on (L, job, instance) target_info`, `load_total * on (job, instance) group_left (L, owner) target_info`, `load_total and on (L) depth`,
		`info(load_total, {L=~".+"})`, `info(load_total, {L=V})`, `absent({L=V})`, `group by (L) (label_replace(load_total, L, V, "", ""))`,
	} {
		add("query", url.Values{"query": {fill(x)}, "time": {to}})
		add("query_exemplars", url.Values{"query": {fill(x)}, "start": {from}, "end": {to}})
	}
	for _, name := range []string{model.EscapeName(bucket.PoolLabel, model.ValueEncodingEscaping), "%00tenant", "U___00_tenant"} {
		add("label/"+name+"/values", nil)
		add("label/"+name+"/values", url.Values{"match[]": {"load_total"}})
	}
	return out
}

// askHidden asks for the hidden label, except by some paths, and then other
// things, to see that nothing got in.
func (c *crowd) askHidden(when string, except ...string) {
	c.t.Helper()
	start := c.tenants[0].start
	c.questions = questions(start)
	c.rnd.Shuffle(len(c.questions), func(i, j int) { c.questions[i], c.questions[j] = c.questions[j], c.questions[i] })
	c.questions = c.questions[:len(c.questions)/4]
	for _, victim := range c.tenants {
		c.questions = append(c.questions, hiddenQuestions(start, victim.id)...)
	}
	c.questions = slices.DeleteFunc(c.questions, func(q question) bool { return slices.Contains(except, q.path) })
	c.expect()
	for _, r := range c.tenants {
		for i, q := range c.questions {
			got, err := c.h.put(r.id, q)
			require.NoError(c.t, err)
			if got != c.want[r][i] {
				c.t.Errorf("%s: %s is answered to %s otherwise than by a Prometheus of its own: %s", when, q, r.id, firstDifference(c.want[r][i], got))
			}
		}
		c.readHidden(r, when)
		c.checkMetadata(r, when, len(except) == 0)
	}
	c.checkPages()
}

// readHidden has matchers on the hidden label in requests of remote read.
func (c *crowd) readHidden(r *resident, when string) {
	c.t.Helper()
	for _, kind := range []labels.MatchType{labels.MatchEqual, labels.MatchNotEqual, labels.MatchRegexp, labels.MatchNotRegexp} {
		for _, value := range []string{"", "hobby", c.tenants[0].id, c.tenants[1].id, ".*", ".+", "hobby|", "[a-z0-9]+"} {
			m := labels.MustNewMatcher(kind, bucket.PoolLabel, value)
			for _, ms := range [][]*labels.Matcher{{m}, {m, everything()}, {everything(), m, labels.MustNewMatcher(labels.MatchEqual, "job", "api")}} {
				want, err := r.ref.read("", 0, endOfTime, ms...)
				require.NoError(c.t, err)
				got, err := c.h.read(r.id, 0, endOfTime, ms...)
				require.NoError(c.t, err)
				require.Empty(c.t, sameStored(want, got), "%s, %s, %v", when, r.id, ms)
				got, err = c.h.readChunks(r.id, 0, endOfTime, ms...)
				require.NoError(c.t, err)
				require.Empty(c.t, sameStored(want, got), "%s, %s, %v as chunks", when, r.id, ms)
			}
		}
	}
}
