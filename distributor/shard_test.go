package distributor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/golang/snappy"
	"github.com/prometheus/prometheus/prompb"
	writev2 "github.com/prometheus/prometheus/prompb/io/prometheus/write/v2"
	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/wire"
)

// writeOf is a request with n series, and its bytes.
func writeOf(t *testing.T, v wire.Version, n int, check func(r *wire.Request, s *wire.Series, ls []wire.Label) bool) (*wire.Request, []byte) {
	t.Helper()
	var one prompb.WriteRequest
	var two writev2.Request
	symbols := writev2.NewSymbolTable()
	for i := range n {
		ls := []prompb.Label{{Name: "__name__", Value: "m"}, {Name: "cluster", Value: "c"}, {Name: "i", Value: fmt.Sprint(i)}}
		ts := prompb.TimeSeries{Labels: ls, Samples: []prompb.Sample{{Timestamp: int64(1000 + i), Value: float64(i)}}}
		one.Timeseries = append(one.Timeseries, ts)
		var refs []uint32
		for _, l := range ls {
			refs = append(refs, symbols.Symbolize(l.Name), symbols.Symbolize(l.Value))
		}
		two.Timeseries = append(two.Timeseries, writev2.TimeSeries{LabelsRefs: refs, Samples: []writev2.Sample{{Timestamp: int64(1000 + i), Value: float64(i)}}})
	}
	two.Symbols = symbols.Symbols()
	body, err := one.Marshal()
	if v == wire.V2 {
		body, err = two.Marshal()
	}
	require.NoError(t, err)
	r := new(wire.Request)
	require.NoError(t, r.Walk(body, v, "t", func(s *wire.Series, ls []wire.Label) bool {
		return check == nil || check(r, s, ls)
	}))
	r.Compressed = snappy.Encode(nil, body)
	return r, body
}

// Where every member holds everything, each gets the sender's bytes as they came.
func TestReplicasGetTheSendersBytes(t *testing.T) {
	t.Parallel()
	w := newReplicas(t, 3, nil)
	for n, v := range []wire.Version{wire.V1, wire.V2} {
		r, body := writeOf(t, v, 100, nil)
		want := slices.Clone(r.Compressed)
		_, err := w.pushAndSpoil(t, r, body)
		require.NoError(t, err)
		for _, m := range w.all {
			until(t, func() bool { return len(m.received()) == n+1 })
			require.Equal(t, wire.PushRequest{Tenant: "t", Version: v, Snappy: true, Body: want}, m.received()[n])
		}
	}
}

// What was refused or changed is not sent on, and what was left out is named.
func TestReplicasGetWhatPassed(t *testing.T) {
	t.Parallel()
	notEven := func(_ *wire.Request, _ *wire.Series, ls []wire.Label) bool { return (ls[2].Value[0]-'0')%2 == 1 }
	without := func(r *wire.Request, s *wire.Series, _ []wire.Label) bool { r.LeaveOut(s, "cluster"); return true }
	both := func(r *wire.Request, s *wire.Series, ls []wire.Label) bool {
		return notEven(r, s, ls) && without(r, s, ls)
	}
	altered := func(r *wire.Request, s *wire.Series, ls []wire.Label) bool {
		r.Altered = true
		return both(r, s, ls)
	}
	for name, check := range map[string]func(*wire.Request, *wire.Series, []wire.Label) bool{
		"refused": notEven, "left out": without, "both": both, "altered": altered,
	} {
		for _, v := range []wire.Version{wire.V1, wire.V2} {
			for _, members := range []int{3, 6} {
				t.Run(fmt.Sprintf("%s v%d %d", name, v, members), func(t *testing.T) {
					t.Parallel()
					w := newReplicas(t, members, nil)
					r, body := writeOf(t, v, 200, check)
					want := asText(r)
					_, err := w.pushAndSpoil(t, r, body)
					require.NoError(t, err)
					w.storedThrice(t, want)
				})
			}
		}
	}
}

// storedThrice waits until three members have each series.
func (w *replicas) storedThrice(t *testing.T, want []string, local ...string) {
	t.Helper()
	var copies []string
	until(t, func() bool {
		copies = slices.Clone(local)
		for _, m := range w.all {
			for _, req := range m.received() {
				if req.Snappy {
					body, err := snappy.Decode(nil, req.Body)
					require.NoError(t, err)
					req.Body = body
				}
				copies = append(copies, stored(t, req)...)
			}
		}
		return len(copies) >= 3*len(want)
	})
	var all []string
	for range 3 {
		all = append(all, want...)
	}
	require.ElementsMatch(t, all, copies)
}

// Where there are more members, each gets its series, from memory that is not
// the request's.
func TestReplicasGetTheirSeries(t *testing.T) {
	t.Parallel()
	for _, v := range []wire.Version{wire.V1, wire.V2} {
		w := newReplicas(t, 7, nil)
		r, body := writeOf(t, v, 500, nil)
		want := asText(r)
		_, err := w.pushAndSpoil(t, r, body)
		require.NoError(t, err)
		w.storedThrice(t, want)
		for _, m := range w.all {
			require.Len(t, m.received(), 1)
			require.False(t, m.received()[0].Snappy)
		}
	}
}

// The ingester of this process reads the request itself, and Push does not
// return before it has.
func TestReplicasCallTheLocalOne(t *testing.T) {
	t.Parallel()
	for _, members := range []int{3, 7} {
		local := &localIngester{}
		w := newReplicas(t, members, local)
		local.before = func() {
			for _, m := range w.all[1:3] {
				until(t, func() bool { return members > 3 || len(m.received()) > 0 })
			}
		}
		r, body := writeOf(t, wire.V1, 300, nil)
		want := asText(r)
		_, err := w.pushAndSpoil(t, r, body)
		require.NoError(t, err)
		require.Len(t, local.got, 1, "the others are enough, but the request's memory is on loan")
		require.Equal(t, members == 3, local.got[0] == r)
		w.storedThrice(t, want, local.texts...)
		require.Empty(t, w.all[0].received())
	}
}

// A request of nothing but metadata reaches a quorum, however many there are.
func TestReplicasGetMetadataAlone(t *testing.T) {
	t.Parallel()
	for _, members := range []int{3, 7} {
		body, err := (&prompb.WriteRequest{Metadata: []prompb.MetricMetadata{{MetricFamilyName: "m", Help: "help"}}}).Marshal()
		require.NoError(t, err)
		for _, local := range []Ingester{nil, &localIngester{}} {
			w := newReplicas(t, members, local)
			r := new(wire.Request)
			require.NoError(t, r.Walk(body, wire.V1, "t", func(*wire.Series, []wire.Label) bool { return true }))
			_, err = w.Push(t.Context(), "t", r)
			require.NoError(t, err)
			until(t, func() bool {
				copies := 0
				if l, ok := local.(*localIngester); ok {
					copies = len(l.got)
				}
				for _, m := range w.all {
					for _, req := range m.received() {
						require.Equal(t, body, req.Body)
						copies++
					}
				}
				return copies == 3
			})
		}
	}
}

func refusal(id string, n int) (p wire.Pushed) {
	p.Refused.Add(id, n, func() *wire.UserError { return wire.Errorf(wire.Invalid, id, "no") })
	return p
}

// What a quorum of the replicas refused is refused, each series once.
func TestReplicasRefuse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		members int
		refused []int // by member
		most    int
		least   int
	}{
		{"nobody", 3, []int{0, 0, 0}, 0, 0},
		{"all the same", 3, []int{4, 4, 4}, 4, 4},
		{"one alone, which may be among the first two", 3, []int{0, 0, 9}, 9, 0},
		{"two of three", 3, []int{5, 0, 5}, 5, 5},
		{"all of many", 6, []int{50, 50, 50, 50, 50, 50}, 110, 90},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newReplicas(t, c.members, nil)
			r, _ := writeOf(t, wire.V1, 100, nil)
			for i, n := range c.refused {
				w.all[i].answer = refusal("err-x", n)
				w.all[i].answer.Samples = 100*3/c.members - n
			}
			pushed, err := w.Push(t.Context(), "t", r)
			require.NoError(t, err)
			require.LessOrEqual(t, pushed.Refused.Total(), c.most)
			require.GreaterOrEqual(t, pushed.Refused.Total(), c.least)
			if pushed.Refused.Total() > 0 {
				require.Equal(t, "err-x", pushed.Refused.First.ID)
			}
			if c.members == 3 {
				require.Equal(t, 100, pushed.Samples+pushed.Refused.Total())
			}
		})
	}
}

func TestReplicasFail(t *testing.T) {
	t.Parallel()
	down := errors.New("connection refused")
	limited := wire.Errorf(wire.Limited, "err-max-series", "too many")
	for _, c := range []struct {
		name string
		errs [3]error
		kind wire.Kind
		id   string // "": no error
	}{
		{"one", [3]error{down}, 0, ""},
		{"two", [3]error{down, nil, down}, wire.Unavailable, "err-too-few-replicas"},
		{"one and the sender", [3]error{down, nil, limited}, 0, "any"},
		{"the sender", [3]error{nil, limited, limited}, wire.Limited, "err-max-series"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newReplicas(t, 3, nil)
			for i, m := range w.all {
				m.err = c.errs[i]
			}
			r, _ := writeOf(t, wire.V1, 10, nil)
			_, err := w.Push(t.Context(), "t", r)
			var ue *wire.UserError
			switch c.id {
			case "":
				require.NoError(t, err)
			case "any":
				require.Error(t, err)
			default:
				require.ErrorAs(t, err, &ue)
				require.Equal(t, c.kind, ue.Kind)
				require.Equal(t, c.id, ue.ID)
			}
		})
	}
}

// A replica that hangs is waited for by nobody, and what waits for it is
// bounded: beyond that it is left out, until it answers again.
func TestReplicasLeaveOutOneThatHangs(t *testing.T) {
	t.Parallel()
	w := newReplicas(t, 3, nil)
	hanging := w.all[1]
	hanging.hang = make(chan struct{})
	const size = 8 << 20
	push := func() error {
		r, _ := writeOf(t, wire.V1, 1, nil)
		r.Compressed = bytes.Repeat([]byte{1}, size-1024) // the rest is for keys
		_, err := w.Push(t.Context(), "t", r)
		return err
	}
	const pushes = 2 * replicaBacklog / size
	for range pushes {
		require.NoError(t, push())
	}
	until(t, func() bool { return len(w.all[0].received()) == pushes && len(w.all[2].received()) == pushes })
	until(t, func() bool { return len(hanging.received()) == replicaBacklog/size })

	// With another that fails nothing can be stored.
	w.all[0].mu.Lock()
	w.all[0].err = errors.New("down")
	w.all[0].mu.Unlock()
	require.Equal(t, wire.Unavailable, wire.KindOf(push()))
	require.Len(t, hanging.received(), replicaBacklog/size)

	close(hanging.hang)
	until(t, func() bool { return push() == nil })
	require.Greater(t, len(hanging.received()), replicaBacklog/size)
}

// A request larger than what may wait is not refused for ever.
func TestReplicasGetOneThatIsLarge(t *testing.T) {
	t.Parallel()
	w := newReplicas(t, 3, nil)
	for n := range 2 {
		r, _ := writeOf(t, wire.V1, 1, nil)
		r.Compressed = bytes.Repeat([]byte{1}, replicaBacklog+1)
		until(t, func() bool { // the one before may still be under way to the slowest
			_, err := w.Push(t.Context(), "t", r)
			return err == nil
		})
		for _, m := range w.all {
			until(t, func() bool { return len(m.received()) > n })
		}
	}
}

// Who gives up waiting is answered at once. What is under way goes on, but not
// for ever.
func TestReplicasCancel(t *testing.T) {
	t.Parallel()
	w := newReplicas(t, 3, nil)
	hang := make(chan struct{})
	for _, m := range w.all[:2] {
		m.hang = hang
	}
	r, body := writeOf(t, wire.V1, 10, nil)
	want := asText(r)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for _, m := range w.all {
			until(t, func() bool { return len(m.received()) == 1 })
		}
		cancel()
	}()
	began := time.Now()
	_, err := w.Push(ctx, "t", r)
	require.ErrorIs(t, err, context.Canceled)
	require.Less(t, time.Since(began), replicaPatience)
	clear(body)
	close(hang)
	w.storedThrice(t, want)
}

// keyed says how many messages each member has got with keys, and with labels.
func (w *replicas) keyed() (keyed, labelled []int) {
	for _, m := range w.all {
		m.mu.Lock()
		keyed, labelled = append(keyed, len(m.keyed)), append(labelled, len(m.got))
		m.mu.Unlock()
	}
	return keyed, labelled
}

// Members that know all series get keys, the others labels.
func TestReplicasGetKeys(t *testing.T) {
	t.Parallel()
	w := newReplicas(t, 3, nil)
	for _, m := range w.all {
		m.knows, m.answer.Series = true, 7
	}
	r, body := writeOf(t, wire.V1, 100, nil)
	want, sent := samplesByKey(r), slices.Clone(r.Compressed)
	pushed, err := w.pushAndSpoil(t, r, body)
	require.NoError(t, err)
	require.Equal(t, wire.Pushed{Samples: 100, Series: 7}, pushed)
	until(t, func() bool { keyed, _ := w.keyed(); return slices.Equal(keyed, []int{1, 1, 1}) })
	for _, m := range w.all {
		var got wire.Request
		require.NoError(t, got.ReadKeyed(m.keyed[0].Body))
		require.Equal(t, want, samplesByKey(&got))
		require.Empty(t, m.received())
	}

	// One of them has forgotten them. It gets labels, and so do all the next
	// few times, and then keys again.
	forgetful := w.all[1]
	forgetful.knows = false
	push := func() {
		r, body = writeOf(t, wire.V1, 100, nil)
		_, err = w.pushAndSpoil(t, r, body)
		require.NoError(t, err)
	}
	push()
	until(t, func() bool { return len(forgetful.received()) == 1 })
	require.Equal(t, sent, forgetful.received()[0].Body)
	forgetful.mu.Lock()
	forgetful.knows = true
	forgetful.mu.Unlock()
	before, _ := w.keyed()
	for range afterUnknown + 1 {
		push()
	}
	until(t, func() bool {
		now, _ := w.keyed()
		return now[0] > before[0] && now[1] > before[1] && now[2] > before[2]
	})
}

// Where there are more members each gets the keys of its series; what more than
// keys can say goes with labels.
func TestReplicasGetTheirKeys(t *testing.T) {
	t.Parallel()
	w := newReplicas(t, 7, nil)
	for _, m := range w.all {
		m.knows = true
	}
	r, body := writeOf(t, wire.V1, 500, func(r *wire.Request, s *wire.Series, _ []wire.Label) bool {
		r.LeaveOut(s, "cluster")
		return true
	})
	want := samplesByKey(r)
	_, err := w.pushAndSpoil(t, r, body)
	require.NoError(t, err)
	copies := func() (out []string) {
		for _, m := range w.all {
			m.mu.Lock()
			for _, k := range m.keyed {
				var got wire.Request
				require.NoError(t, got.ReadKeyed(k.Body))
				out = append(out, samplesByKey(&got)...)
			}
			m.mu.Unlock()
		}
		return out
	}
	until(t, func() bool { return len(copies()) == 3*len(want) })
	require.ElementsMatch(t, slices.Concat(want, want, want), copies())

	r, body = writeOf(t, wire.V2, 500, nil)
	r.Metadata = append(r.Metadata, wire.Metadata{Family: "m"})
	_, err = w.pushAndSpoil(t, r, body)
	require.NoError(t, err)
	until(t, func() bool {
		_, labelled := w.keyed()
		return slices.Equal(labelled, []int{1, 1, 1, 1, 1, 1, 1})
	})
}

func samplesByKey(r *wire.Request) (out []string) {
	for _, s := range r.Series {
		out = append(out, fmt.Sprint(s.Key, r.Samples[s.Samples.Lo:s.Samples.Hi]))
	}
	return out
}
