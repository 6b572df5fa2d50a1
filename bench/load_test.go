package main

import (
	"context"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/prometheus/prompb"
	"github.com/stretchr/testify/require"
)

func testSpec() Spec {
	return Spec{
		Series: 1230, Samples: 7, Step: 15 * time.Second, End: time.UnixMilli(1_793_000_007_123),
		PerRequest: 200, Senders: 4,
	}
}

func send(t *testing.T, spec Spec, url string) (*Load, *Sent) {
	t.Helper()
	load, err := Prepare(t.Context(), spec, t.TempDir())
	require.NoError(t, err)
	sent, err := Send(t.Context(), load, url)
	require.NoError(t, err)
	return load, sent
}

// Every series arrives with all its samples, in order, at the right times,
// with sorted labels, in both versions of remote write.
func TestLoadArrivesWhole(t *testing.T) {
	for name, change := range map[string]func(*Spec){
		"remote write 1.0": func(*Spec) {},
		"remote write 2.0": func(s *Spec) { s.V2 = true },
		"many tenants":     func(s *Spec) { s.Tenants, s.Series, s.PerRequest = 30, 50, 40 },
		"one sender":       func(s *Spec) { s.Senders = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := testSpec()
			change(&spec)
			sink, url := newSink(t)
			load, sent := send(t, spec, url)

			require.Equal(t, load.Total(), sent.Samples)
			require.Zero(t, sent.Errors, sent.FirstErr)
			require.Len(t, sink.got, max(1, spec.Tenants))
			for tenant, all := range sink.got {
				require.Len(t, all, spec.Series, tenant)
				for key, samples := range all {
					checkSamples(t, spec, samples)
					checkLabels(t, sink.labels[key])
				}
			}
		})
	}
}

func checkSamples(t *testing.T, spec Spec, got []prompb.Sample) {
	t.Helper()
	require.Len(t, got, spec.Samples)
	for i, s := range got {
		want := spec.First().Add(time.Duration(i) * spec.Step).UnixMilli()
		require.Equal(t, want, s.Timestamp)
		require.False(t, math.IsNaN(s.Value))
	}
	require.LessOrEqual(t, got[len(got)-1].Timestamp, spec.End.UnixMilli())
}

func checkLabels(t *testing.T, ls []prompb.Label) {
	t.Helper()
	names := make([]string, len(ls))
	for i, l := range ls {
		names[i] = l.Name
		require.NotEmpty(t, l.Value)
	}
	require.True(t, slices.IsSorted(names), names)
	require.Len(t, slices.Compact(names), len(ls))
}

// The load is like a real one: 9 or 10 labels, some 250 bytes of them, no
// series twice, about half of them buckets, and cheap to compress.
func TestPopulationIsRealistic(t *testing.T) {
	const n = 10_000
	seen, names, bytes := map[string]bool{}, map[string]int{}, 0
	for _, s := range population(0, 0, n) {
		key := ""
		for _, l := range s.labels {
			key += l.name + "=" + l.value + ","
			bytes += len(l.name) + len(l.value)
		}
		require.False(t, seen[key], key)
		seen[key] = true
		names[s.name()]++
		require.Contains(t, []int{9, 10}, len(s.labels), key)
	}
	require.InDelta(t, 250, float64(bytes)/n, 30)
	require.Equal(t, n*48/100, names["http_request_duration_seconds_bucket"])
	require.Greater(t, len(names), 30)
}

// Buckets are cumulative and never go down, and the last one is the count.
func TestHistogramsAddUp(t *testing.T) {
	pod := newPod(3, 17).requests(nil, 0)
	before := make([]float64, len(bounds))
	for range 50 {
		last := 0.0
		for i := range bounds {
			v := pod[i].curve.next()
			require.GreaterOrEqual(t, v, last)
			require.GreaterOrEqual(t, v, before[i])
			last, before[i] = v, v
		}
		require.InDelta(t, last, pod[len(bounds)].curve.next(), 0)
	}
}

// A part of the population is the same series as in the whole.
func TestPopulationParts(t *testing.T) {
	all := population(1, 0, 700)
	require.Equal(t, all[130:420], population(1, 130, 420))
	require.NotEqual(t, all[0].labels, population(2, 0, 1)[0].labels)
}

func TestSendTriesAgain(t *testing.T) {
	sink, url := newSink(t)
	sink.refuse = 3
	load, sent := send(t, testSpec(), url)
	require.EqualValues(t, 3, sent.Retries)
	require.Equal(t, load.Total(), sent.Samples)
	for _, samples := range sink.got["bench"] {
		checkSamples(t, load.Spec, samples)
	}
}

func TestSendCountsErrors(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no good", http.StatusBadRequest)
	}))
	t.Cleanup(srv.Close)
	spec := testSpec()
	_, sent := send(t, spec, srv.URL)
	require.Zero(t, sent.Samples)
	require.EqualValues(t, 7*7, sent.Errors) // 7 batches at 7 times
	require.Contains(t, sent.FirstErr, "no good")
}

func TestSendStops(t *testing.T) {
	sink, url := newSink(t)
	sink.refuse = math.MaxInt
	load, err := Prepare(t.Context(), testSpec(), t.TempDir())
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = Send(ctx, load, url)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestRetryAfter(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"": 100 * time.Millisecond, "0": 100 * time.Millisecond, "x": 100 * time.Millisecond,
		"2": 2 * time.Second, "3600": maxPause,
	} {
		require.Equal(t, want, retryAfter(http.Header{"Retry-After": {in}}), in)
	}
}
