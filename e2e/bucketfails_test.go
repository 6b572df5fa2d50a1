package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/bucket/buckettest"
)

// TestFirstWayOverS3 is the end of TestFirstWay with blocks in S3 instead of a
// folder.
func TestFirstWayOverS3(t *testing.T) {
	t.Parallel()
	place := newPlace(t)
	h := startOver(t, place, place.Endpoint)
	start := time.Now().Add(-time.Hour).Truncate(time.Minute).UnixMilli()
	tenants := []*newcomer{
		{h: h, tenant: "team-kestrel", proto: remoteWrite1, scale: 1, start: start},
		{h: h, tenant: "own", proto: remoteWrite2, scale: 1000, start: start},
	}
	each := func(when string, samples int) {
		t.Helper()
		for _, c := range tenants {
			c.send(samples)
			c.check(when)
		}
	}
	each("from memory", 80)
	h.flush()
	each("from a local block and memory", 60)
	h.flush()
	checkBucket(t, place)
	h.forgetRecent()
	for _, c := range tenants {
		c.check("from the bucket alone")
	}
	each("from the bucket and memory", 5)
}

// TestBucketFails takes the bucket away while hearth is written to, flushes,
// crashes and starts again. All writes are acknowledged meanwhile. Queries are
// answered whole, from recent data and what was read of the bucket before, or
// refused where its list of blocks is not known. When the bucket works again,
// all is in it.
func TestBucketFails(t *testing.T) {
	t.Parallel()
	for _, o := range outages(t) {
		t.Run(o.name, func(t *testing.T) {
			t.Parallel()
			place := newPlace(t)
			p := buckettest.StartProxy(t, place.Endpoint)
			h := startOver(t, place, p.Addr)
			writers := newWriters(h)
			writeAll(t, writers, 15) // to be in the bucket alone
			h.flush()
			h.client.CloseIdleConnections()
			h.forgetRecent()
			writeAll(t, writers, 15) // to be in the bucket and here
			h.flush()
			checkWriters(t, h, writers, "before the outage")

			o.begin(p)
			crashInOutage(t, h, p, writers)
			restartInOutage(t, h, o, writers)
			o.end(p)

			afterOutage(t, h, place, writers, o.lasting)
		})
	}
}

// crashInOutage has hearth flush and take writes while the bucket fails, and
// kills it meanwhile.
func crashInOutage(t *testing.T, h *hearth, p *buckettest.Proxy, writers []*writer) {
	t.Helper()
	gone := flushUntilGone(h)
	writeAll(t, writers, 15)
	until(t, patience, "the outage to be felt", func() error {
		if p.Met() == 0 && h.metric(`hearth_bucket_retries_total{operation="list"}`) == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	checkWriters(t, h, writers, "in the outage")
	loadUntil(t, h, writers, 60, false, h.kill)
	<-gone
}

// flushUntilGone flushes again and again, whatever the answer is.
func flushUntilGone(h *hearth) (gone <-chan struct{}) {
	end := make(chan struct{})
	go func() {
		defer close(end)
		for {
			if _, _, err := h.do(http.MethodPost, "/ingester/flush?wait=true", "", nil, nil); err != nil {
				return
			}
		}
	}()
	return end
}

// restartInOutage has a process start that has not seen the bucket, and
// another one after it was told to stop.
func restartInOutage(t *testing.T, h *hearth, o outage, writers []*writer) {
	t.Helper()
	h.start()
	var queries sync.WaitGroup
	if o.lasting && (long || !o.silent) {
		queries.Go(func() { checkRefused(t, h, "own") })
	}
	writeAll(t, writers, 15)
	queries.Wait()
	if !o.lasting {
		wholeOrRefused(t, h, writers)
	}
	h.client.CloseIdleConnections() // a stop waits for those that were never used
	h.stop()
	h.start()
	writeAll(t, writers, 5)
}

// afterOutage has the bucket get all it has missed, and reads it from there.
// Blocks that were cut in the outage and wait go out by themselves.
func afterOutage(t *testing.T, h *hearth, place bucket.S3Config, writers []*writer, blocksWait bool) {
	t.Helper()
	if long && blocksWait {
		until(t, patience, "a block to be shipped without a flush", func() error {
			if h.metric("hearth_ingester_blocks_shipped_total") == 0 {
				return errors.New("not yet")
			}
			return nil
		})
	}
	h.flush()
	until(t, patience, "an answer after the outage", func() error {
		_, err := h.read("own", 0, time.Now().UnixMilli(), everything())
		return err
	})
	checkWriters(t, h, writers, "after the outage")
	checkBucket(t, place)
	h.client.CloseIdleConnections()
	h.forgetRecent()
	checkWriters(t, h, writers, "from the bucket alone")
}

// newWriters are writers of pooled tenants and one with a head of its own.
func newWriters(h *hearth) (writers []*writer) {
	base := time.Now().Add(-time.Hour).Truncate(time.Minute).UnixMilli()
	for i, id := range []string{"pool-1", "pool-2", "own", "own"} {
		writers = append(writers, &writer{h: h, tenant: id, name: fmt.Sprint("w", i), proto: protocols[i%2], base: base, sent: map[int]bool{}})
	}
	return writers
}

// writeAll has each writer write n requests, all of which must be acknowledged
// the first time they are sent.
func writeAll(t *testing.T, writers []*writer, n int) {
	t.Helper()
	var wg sync.WaitGroup
	slowest := make([]time.Duration, len(writers))
	for i, w := range writers {
		wg.Go(func() {
			for range n {
				began := time.Now()
				if ok, err := w.write(); !ok || err != nil {
					t.Errorf("request %d of %s is not acknowledged: %v", w.next, w.name, err)
					return
				}
				slowest[i] = max(slowest[i], time.Since(began))
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	t.Logf("%d writes, the slowest took %s", n*len(writers), slices.Max(slowest).Round(time.Millisecond))
}

// wholeOrRefused asks for all that was sent: the answer has it, or there is
// none. Never is it a part.
func wholeOrRefused(t *testing.T, h *hearth, writers []*writer) {
	t.Helper()
	tenants := map[string][]*writer{}
	for _, w := range writers {
		tenants[w.tenant] = append(tenants[w.tenant], w)
	}
	type answer struct {
		tenant string
		got    stored
		err    error
	}
	answers := make(chan answer)
	for id, ws := range tenants {
		go func() {
			got, err := h.read(id, ws[0].base-time.Hour.Milliseconds(), time.Now().Add(48*time.Hour).UnixMilli(), everything())
			answers <- answer{id, got, err}
		}()
	}
	for range tenants {
		switch a := <-answers; {
		case a.err == nil:
			compareSent(t, tenants[a.tenant], a.got, a.tenant+", in the outage")
		case !isRefusal(a.err):
			t.Fatalf("%s, in the outage: %v", a.tenant, a.err)
		default:
			t.Logf("%s is refused in the outage", a.tenant)
		}
	}
}

// isRefusal says that the error of a read tells the client what is wrong.
func isRefusal(err error) bool {
	return err != nil && strings.Contains(err.Error(), "503") && strings.Contains(err.Error(), "(err-store-")
}

// checkRefused asks in all ways there are when no list of blocks is known:
// nobody can know that recent data are all there is.
func checkRefused(t *testing.T, h *hearth, tenant string) {
	var wg sync.WaitGroup
	for _, question := range []string{
		"query?query=count({__name__=~\".%2B\"})",
		"query_range?query=kill_float&start=0&end=4000000000&step=1000000",
		"series?match[]=kill_float",
		"labels",
		"label/writer/values",
	} {
		wg.Go(func() {
			if err := refusal(t.Context(), h, tenant, "/prometheus/api/v1/"+question); err != nil {
				t.Errorf("%s without a list of blocks: %v", question, err)
			}
		})
	}
	wg.Go(func() {
		got, err := h.read(tenant, 0, time.Now().UnixMilli(), everything())
		if !isRefusal(err) {
			t.Errorf("remote read without a list of blocks: %d series, %v", len(got), err)
		}
	})
	wg.Wait()
}

// refusal says what is not as it should be in the answer to a query that cannot
// be answered now.
func refusal(ctx context.Context, h *hearth, tenant, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.url+path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("X-Scope-OrgID", tenant)
	res, err := h.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	var answer envelope
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return err
	}
	if res.StatusCode != http.StatusServiceUnavailable || answer.ErrorType != "unavailable" ||
		!strings.Contains(answer.Error, "(err-store-index)") || res.Header.Get("Retry-After") == "" {
		return fmt.Errorf("%s, Retry-After %q, %s %s", res.Status, res.Header.Get("Retry-After"), answer.ErrorType, answer.Error)
	}
	return nil
}

// TestStartWithoutBucket starts hearth while the bucket is away. It serves
// writes, says what is wrong where an operator looks, and needs nobody when the
// bucket comes.
func TestStartWithoutBucket(t *testing.T) {
	t.Parallel()
	place := newPlace(t)
	p := buckettest.StartProxy(t, place.Endpoint)
	p.Leave()
	h := startOver(t, place, p.Addr)
	writers := newWriters(h)
	writeAll(t, writers[2:], 20)
	var queries sync.WaitGroup
	queries.Go(func() { checkRefused(t, h, "own") })
	queries.Go(func() { checkRefused(t, h, "never-seen") })
	status, body, err := h.do(http.MethodPost, "/ingester/flush?wait=true&tenant=own", "", nil, nil)
	queries.Wait()
	require.NoError(t, err)
	require.Equal(t, http.StatusInternalServerError, status)
	for what, text := range map[string]string{"flush": body, "log": h.log()} {
		require.Contains(t, text, "s3 bucket "+buckettest.Bucket+" at "+p.Addr, what)
		require.Contains(t, text, "connection refused", what)
		require.NotContains(t, text, buckettest.SecretAccessKey, what)
	}
	require.Contains(t, h.log(), "list of blocks cannot be read, will retry")
	_, metrics, err := h.get("/metrics")
	require.NoError(t, err)
	require.Regexp(t, `hearth_bucket_requests_total\{component="\w+",operation="\w+",outcome="error"\} [1-9]`, metrics, "each is tried for seconds: which has ended is open")
	require.Positive(t, h.metric(`hearth_ingester_ship_failures_total`))
	h.kill()
	h.start()
	writeAll(t, writers, 5)

	p.Return()
	afterOutage(t, h, place, writers, true)
}

// TestStoredDataWithoutBucket asks for blocks of which hearth has the indexes
// and no samples: refused while the bucket is away. What was read once is
// answered without it.
func TestStoredDataWithoutBucket(t *testing.T) {
	if !long {
		t.Skip("waits until hearth gives a bucket up: make e2e")
	}
	t.Parallel()
	place := newPlace(t)
	p := buckettest.StartProxy(t, place.Endpoint)
	h := startOver(t, place, p.Addr)
	writers := newWriters(h)
	writeAll(t, writers, 20)
	h.flush()
	h.forgetRecent()
	for _, w := range writers {
		var found []map[string]string
		h.ask(w.tenant, "series", url.Values{"match[]": {"kill_float"}}, &found)
		require.NotEmpty(t, found)
	}
	p.Leave()
	_, err := h.read("own", 0, time.Now().UnixMilli(), everything())
	require.ErrorContains(t, err, "(err-store-block-unavailable)")
	wholeOrRefused(t, h, writers)
	p.Return()
	checkWriters(t, h, writers, "when it is back")
	p.Leave()
	checkWriters(t, h, writers, "when it is away again")
}

// TestWrongBucket has settings that cannot work: who looks is told which.
func TestWrongBucket(t *testing.T) {
	t.Parallel()
	for setting, want := range map[string]string{
		"bucket.s3.bucket=not-there":           "create it, or correct bucket.s3.bucket",
		"bucket.s3.secret_access_key=mistyped": "check bucket.s3.access_key_id and bucket.s3.secret_access_key",
	} {
		t.Run(setting, func(t *testing.T) {
			t.Parallel()
			place := newPlace(t)
			h := startOver(t, place, place.Endpoint, setting)
			writers := newWriters(h)
			writeAll(t, writers, 1)
			checkRefused(t, h, "own")
			status, body, err := h.do(http.MethodPost, "/ingester/flush?wait=true", "", nil, nil)
			require.NoError(t, err)
			require.Equal(t, http.StatusInternalServerError, status)
			require.Contains(t, body, want)
			require.Contains(t, h.log(), want)
		})
	}
}
