package distributor

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/tenant"
)

// A tenant whose requests hang has half of the memory. It is told to come back,
// others find room, and room is given back however a request ends.
func TestInflightBytes(t *testing.T) {
	d := newDoor(t, func(d *door) { d.cfg.MaxRequestBytes = 1 << 20; d.cfg.MaxInflightBytes = 4 << 20 })
	hanging, release := io.Pipe()
	done := make(chan int)
	for range 2 {
		go func() {
			r := httptest.NewRequest(http.MethodPost, "/api/v1/push", hanging)
			r.ContentLength = 1 << 20
			r.Header.Set(tenant.Header, "t")
			w := httptest.NewRecorder()
			d.server.ServeHTTP(w, r)
			done <- w.Code
		}()
	}
	require.Eventually(t, func() bool { return d.inflight.total() == 2<<20 }, 10*time.Second, time.Millisecond)
	w := d.write(d.series("__name__", "m"))
	require.Equal(t, 503, w.Code)
	require.Equal(t, "1", w.Header().Get("Retry-After"))
	require.Contains(t, w.Body.String(), "err-distributor-busy")
	require.Equal(t, 200, d.writeAs("other", d.series("__name__", "m")).Code)
	require.NoError(t, release.CloseWithError(io.ErrUnexpectedEOF))
	for range 2 {
		require.Equal(t, 400, <-done)
	}
	require.Zero(t, d.inflight.total())
	require.Equal(t, 200, d.write(d.series("__name__", "m")).Code)
}

// What a sender of unknown length has is what has come, not the largest there
// may be.
func TestInflightBytesOfUnknownLength(t *testing.T) {
	d := newDoor(t)
	body, sender := io.Pipe()
	done := make(chan int)
	go func() {
		r := httptest.NewRequest(http.MethodPost, "/api/v1/push", body)
		r.ContentLength = -1
		r.Header.Set(tenant.Header, "t")
		w := httptest.NewRecorder()
		d.server.ServeHTTP(w, r)
		done <- w.Code
	}()
	require.Eventually(t, func() bool { return d.inflight.total() == firstRead }, 10*time.Second, time.Millisecond)
	_, err := sender.Write(make([]byte, 10*firstRead))
	require.NoError(t, err)
	// What was read last is counted after it was read.
	require.Eventually(t, func() bool { return d.inflight.total() >= 10*firstRead }, 10*time.Second, time.Millisecond)
	require.LessOrEqual(t, d.inflight.total(), int64(20*firstRead))
	require.NoError(t, sender.Close())
	require.Equal(t, 400, <-done)
	require.Zero(t, d.inflight.total())
}

// Whatever tenants do, the sum stays below the bound; one that asks for what a
// request may need at most is not kept from it by any single other.
func TestNoTenantHasAllOfTheMemory(t *testing.T) {
	const most, largest = 4000, 1000
	rnd := rand.New(rand.NewPCG(1, 2))
	f := &inflight{max: most}
	var all []*held
	for range 20_000 {
		if rnd.IntN(3) == 0 && len(all) > 0 {
			k := rnd.IntN(len(all))
			all[k].end()
			all[k] = all[len(all)-1]
			all = all[:len(all)-1]
		}
		h := f.hold(tenant.ID(fmt.Sprint(rnd.IntN(3))))
		_ = h.take(rnd.Int64N(largest)) // full: then it has nothing
		all = append(all, &h)
		sum := map[tenant.ID]int64{}
		total := int64(0)
		for _, h := range all {
			sum[h.id] += h.bytes
			total += h.bytes
		}
		require.Equal(t, total, f.total())
		require.LessOrEqual(t, total, int64(most))
		for id, n := range sum {
			require.LessOrEqual(t, n, int64(most+largest)/2, id)
		}
	}
	for _, h := range all {
		h.end()
	}
	require.Zero(t, f.total())
	require.Empty(t, f.byTenant)

	greedy := f.hold("greedy")
	for greedy.take(10) == nil { // until it gets no more
	}
	require.Equal(t, int64(most/2), greedy.bytes)
	second := f.hold("second")
	for second.take(10) == nil {
	}
	require.Equal(t, int64(most/4), second.bytes, "half of what the first has left")
	quiet := f.hold("quiet")
	require.NoError(t, quiet.take(most/8))
}

// To announce a body costs next to nothing; one that comes has about the memory
// that it needs.
func TestMemoryIsForWhatHasCome(t *testing.T) {
	const announced = 10 << 20
	sent := bytes.Repeat([]byte("0123456789"), announced/10)
	for _, length := range []int64{announced, -1} {
		b := &buffers{}
		require.NoError(t, b.read(bytes.NewReader(nil), length, 2*announced))
		require.LessOrEqual(t, cap(b.compressed), 2*firstRead)
		require.NoError(t, b.read(bytes.NewReader(sent), length, 2*announced))
		require.True(t, bytes.Equal(sent, b.compressed))
		require.LessOrEqual(t, cap(b.compressed), 2*announced)
	}
	b := &buffers{}
	require.NoError(t, b.read(bytes.NewReader(sent[:100]), 100, announced))
	require.LessOrEqual(t, cap(b.compressed), 200)
	require.ErrorContains(t, b.read(bytes.NewReader(sent), -1, announced-1), "err-request-too-large")
}
