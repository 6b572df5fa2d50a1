package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// used is what a tenant's hours say together.
type used struct {
	SamplesStored  int64            `json:"samples_stored"`
	SamplesRefused map[string]int64 `json:"samples_refused"`
	Queries        int64            `json:"queries"`
	SamplesRead    int64            `json:"samples_read"`
	BytesRead      int64            `json:"bytes_read"`
}

// usage asks for all hours of a tenant.
func (e *endpoint) usage(tenant string) used {
	e.t.Helper()
	status, text, err := e.do(http.MethodGet, fmt.Sprintf("/api/v1/tenant/usage?from=%d", time.Now().Add(-5*time.Hour).Unix()), tenant, nil, nil)
	require.NoError(e.t, err)
	require.Equal(e.t, http.StatusOK, status, text)
	var answer struct{ Hours []used }
	require.NoError(e.t, json.Unmarshal([]byte(text), &answer))
	sum := used{SamplesRefused: map[string]int64{}}
	for _, h := range answer.Hours {
		sum.SamplesStored += h.SamplesStored
		sum.Queries += h.Queries
		sum.SamplesRead += h.SamplesRead
		sum.BytesRead += h.BytesRead
		for id, n := range h.SamplesRefused {
			sum.SamplesRefused[id] += n
		}
	}
	return sum
}

// load sends a few random requests, of which one series in five is refused, and
// returns how many samples are stored and how many refused.
func (h *hearth) load(tenant string, rnd *rand.Rand, requests int, next *int64) (stored, refused int64) {
	h.t.Helper()
	for range requests {
		var list []series
		good, bad := int64(0), int64(0)
		for k := range 1 + rnd.IntN(20) {
			name := fmt.Sprintf(`m{i="%d"}`, k)
			*next++
			values := make([]float64, 1+rnd.IntN(5))
			if k%5 == 4 {
				name = fmt.Sprintf(`{i="%d"}`, k) // of no metric
				bad += int64(len(values))
			} else {
				good += int64(len(values))
			}
			list = append(list, floats(seriesLabels(h.t, name), *next*1000, 1, values...))
		}
		status, answer, err := h.send(protocols[0], tenant, list...)
		require.NoError(h.t, err)
		want := http.StatusOK
		if bad > 0 {
			want = http.StatusBadRequest
		}
		require.Equal(h.t, want, status, answer)
		stored, refused = stored+good, refused+bad
	}
	return stored, refused
}

// The hours add up to what was sent, to the sample, also over a clean restart. A
// process that is killed loses what it has counted since it stored its counts,
// and no more: not what it had stored, nor what comes later.
func TestUsageIsWhatWasSent(t *testing.T) {
	t.Parallel()
	rnd := newRand(t, uint64(time.Now().UnixNano()))
	h := startHearth(t)
	next := time.Now().Add(-time.Hour).Unix()
	var stored, refused int64
	load := func(requests int) (s, r int64) {
		s, r = h.load("t", rnd, requests, &next)
		stored, refused = stored+s, refused+r
		return s, r
	}
	check := func(when string) {
		t.Helper()
		u := h.usage("t")
		require.Equal(t, stored, u.SamplesStored, when)
		require.Equal(t, refused, u.SamplesRefused["err-missing-metric-name"], when)
	}
	load(50)
	check("while it runs")
	for range 3 {
		h.instant("t", `count({i=~".+"})`, next*1000)
	}
	read := h.usage("t")
	require.Equal(t, int64(3), read.Queries)
	require.Positive(t, read.SamplesRead)
	require.Positive(t, read.BytesRead)

	load(50)
	h.stop()
	h.start()
	check("after a clean stop")

	for range 2 {
		h.stop() // what it has counted is stored
		h.start()
		before := stored
		unstored, unstoredRefused := load(30)
		h.kill()
		h.start()
		u := h.usage("t")
		lost := stored - u.SamplesStored
		t.Logf("killed %d samples after counts were stored: %d are missing in usage", unstored, lost)
		require.GreaterOrEqual(t, u.SamplesStored, before, "what was stored is lost")
		require.GreaterOrEqual(t, lost, int64(0), "more than was sent")
		require.GreaterOrEqual(t, u.SamplesRefused["err-missing-metric-name"], refused-unstoredRefused)
		stored, refused = u.SamplesStored, u.SamplesRefused["err-missing-metric-name"]
		load(10)
		check("after a kill")
	}
}

// What was refused by any node of a cluster a tenant sees at each of them: how
// often for which reason in each hour, and the last refusals.
func TestRefusalsOfACluster(t *testing.T) {
	c := newCluster(t)
	c.add("node", 3, nil, "")
	c.awaitRing(3)
	rnd := newRand(t, uint64(time.Now().UnixNano()))
	next := time.Now().Add(-time.Hour).Unix()
	var refused int64
	for _, n := range c.nodes {
		_, r := n.load("t", rnd, 10, &next)
		refused += r + 1
		status, answer, err := n.send(protocols[0], "t", floats(seriesLabels(t, `only{on="`+n.name+`"}`), time.Now().Add(time.Hour).UnixMilli(), 1, 1))
		require.NoError(t, err)
		require.Equal(t, http.StatusBadRequest, status, answer)
	}
	type report struct {
		Counts map[string]int64
		Hours  []struct{ Counts map[string]int64 }
		Last   []struct{ ID, Message string }
	}
	ask := func(n *node) (r report) {
		status, text, err := n.do(http.MethodGet, fmt.Sprintf("/api/v1/tenant/refused?from=%d", time.Now().Add(-5*time.Hour).Unix()), "t", nil, nil)
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, status, text)
		require.NoError(t, json.Unmarshal([]byte(text), &r))
		return r
	}
	for _, n := range c.nodes { // each stores what it has
		n.stop()
		n.start()
	}
	for _, n := range c.nodes {
		r := ask(n)
		require.Equal(t, refused-3, r.Counts["err-missing-metric-name"], n.name)
		require.Equal(t, int64(3), r.Counts["err-too-far-in-future"], n.name)
		sum := map[string]int64{}
		for _, h := range r.Hours {
			for id, count := range h.Counts {
				sum[id] += count
			}
		}
		require.Equal(t, r.Counts, sum, "the hours of %s", n.name)
		for _, other := range c.nodes {
			require.Contains(t, fmt.Sprint(r.Last), `only{on="`+other.name+`"}`, "what %s shows of %s", n.name, other.name)
		}
	}
}
