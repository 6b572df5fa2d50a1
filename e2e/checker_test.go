package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

// How a client of the checker behaves.
const (
	writeEvery   = 200 * time.Millisecond // for each writer
	readEvery    = 200 * time.Millisecond // for each reader
	retryEvery   = 100 * time.Millisecond // once every server has failed
	writeTimeout = 5 * time.Second        // until it tries another server
	readTimeout  = 10 * time.Second
	recentWrites = 50 // that a reader looks at every other time
)

// checker writes to a cluster at a constant pace, through all distributors by
// turns as a load balancer does, and reads all the time: what was acknowledged
// before a query began is in its answer, once, and as it was sent.
type checker struct {
	t       *testing.T
	cluster *cluster
	label   string
	began   time.Time
	turn    atomic.Int64

	quiet   sync.RWMutex // held for reading by a write; a check waits for all
	writers []*writer
	stop    chan struct{}
	stopped func()
	wg      sync.WaitGroup

	mu    sync.Mutex // also for writers' sent and next
	wrong []string
	write tally
	read  tally
}

// tally is how one kind of requests went.
type tally struct {
	kind   string
	done   int           // answered as they should be
	failed int           // tries that were answered with an error, or not at all
	away   int           // tries at a server that the story had taken away
	worst  time.Duration // the longest from the first try to the answer
	at     time.Duration // since the start: when that was
	took   time.Duration // all together
	why    []string      // the first failures
}

func newChecker(t *testing.T, c *cluster, label string) *checker {
	k := &checker{t: t, cluster: c, label: label, began: time.Now(), stop: make(chan struct{})}
	k.write.kind, k.read.kind = "writes", "reads"
	base := time.Now().Add(-time.Hour).Truncate(time.Minute).UnixMilli()
	for i, id := range []string{"pool-1", "pool-1", "pool-2", "own", "own"} {
		k.writers = append(k.writers, &writer{tenant: id, name: fmt.Sprint("w", i), proto: protocols[i%2], base: base, sent: map[int]bool{}})
	}
	k.stopped = sync.OnceFunc(func() {
		close(k.stop)
		k.wg.Wait()
	})
	t.Cleanup(k.stopped)
	return k
}

// run writes and reads until the checker is stopped.
func (k *checker) run() {
	for _, w := range k.writers {
		k.wg.Go(func() { k.pace(writeEvery, func() { k.writeNext(w) }) })
	}
	for n := range 2 {
		turn := n
		k.wg.Go(func() {
			k.pace(readEvery, func() {
				k.readOne(k.writers[turn%len(k.writers)], turn/len(k.writers)%3)
				turn++
			})
		})
	}
}

func (k *checker) pace(every time.Duration, do func()) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			do()
		case <-k.stop:
			return
		}
	}
}

// nextOf is whose turn it is. A load balancer does not know who is away.
func (k *checker) nextOf(kind func(*node) bool) *node {
	var all []*node
	for _, n := range k.cluster.all() {
		if n.label == k.label && kind(n) && n.state.Load() != left {
			all = append(all, n)
		}
	}
	if len(all) == 0 {
		panic("no server of that kind in the cluster")
	}
	return all[int(k.turn.Add(1))%len(all)]
}

// persist tries one server after the other until one gives the right answer,
// and counts what happened.
func (k *checker) persist(count *tally, kind func(*node) bool, try func(*node) error) {
	began := time.Now()
	servers := max(1, len(k.cluster.all()))
	for tries := 1; ; tries++ {
		n := k.nextOf(kind)
		before, since := n.state.Load(), time.Now()
		err := try(n)
		k.mu.Lock()
		switch {
		case err == nil:
			count.finish(time.Since(began), began.Sub(k.began))
			k.mu.Unlock()
			return
		case n.mayFail(before, err):
			count.away++
		default:
			count.fail(fmt.Sprintf("%.1fs: %s after %s: %v", since.Sub(k.began).Seconds(), n.name, time.Since(since).Round(time.Millisecond), err))
		}
		k.mu.Unlock()
		if tries%servers == 0 {
			select {
			case <-time.After(retryEvery):
			case <-k.stop:
				return
			}
		}
	}
}

// mayFail says that a request to a node could not be expected to go well.
func (n *node) mayFail(before int32, err error) bool {
	worst := min(before, n.state.Load())
	return worst == cutOff || worst <= away && expectedOf(err)
}

// expectedOf says that a server that starts or stops may give that answer:
// none, or that it is not ready yet, as a load balancer that asks finds out.
func expectedOf(err error) bool {
	var e *answerError
	return errors.As(err, &e) && (e.status == 0 || strings.Contains(e.text, "err-not-ready"))
}

// answerError is an answer that is not the right one; status 0: none at all.
type answerError struct {
	status int
	text   string
}

func (e *answerError) Error() string {
	if e.status == 0 {
		return "no answer: " + e.text
	}
	return fmt.Sprintf("%d %s", e.status, strings.TrimSpace(e.text))
}

func (c *tally) finish(took, at time.Duration) {
	c.done++
	c.took += took
	if took > c.worst {
		c.worst, c.at = took, at
	}
}

func (c *tally) fail(why string) {
	c.failed++
	if len(c.why) < 10 {
		c.why = append(c.why, why)
	}
}

func (c *tally) String() string {
	return fmt.Sprintf("%d %s: %d tries failed, %d met a server that was away, %s on average, at worst %s (begun at %.1fs)",
		c.done, c.kind, c.failed, c.away, (c.took / time.Duration(max(1, c.done))).Round(time.Millisecond), c.worst.Round(time.Millisecond), c.at.Seconds())
}

// writeNext sends the next request of a writer until it is acknowledged.
func (k *checker) writeNext(w *writer) {
	k.quiet.RLock()
	defer k.quiet.RUnlock()
	k.mu.Lock()
	n := w.next
	w.sent[n] = false
	k.mu.Unlock()
	good, bad := w.request(n)
	body, err := w.proto.encode(append(good, bad...))
	if err != nil {
		k.report("encode: %v", err)
		return
	}
	k.persist(&k.write, (*node).distributes, func(to *node) error {
		status, answer, err := to.web.in(writeTimeout).do(http.MethodPost, "/api/v1/push", w.tenant, w.proto.header, body)
		switch {
		case err != nil:
			return &answerError{text: err.Error()}
		case status == w.proto.success && len(bad) == 0:
		case status == http.StatusBadRequest && len(bad) > 0 && strings.Contains(answer, "the rest of the request is stored") && refusedOnly(answer):
		default:
			return &answerError{status, answer}
		}
		k.mu.Lock()
		defer k.mu.Unlock()
		w.sent[n] = true
		w.next = n + 1
		return nil
	})
}

func (k *checker) report(format string, args ...any) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wrong = append(k.wrong, fmt.Sprintf("%.1fs: ", time.Since(k.began).Seconds())+fmt.Sprintf(format, args...))
}

// span is requests of a writer, all acknowledged: from first to before.
type span struct {
	w             *writer
	first, before int
}

func (s span) start() int64 { return s.w.base + int64(s.first)*1000 - 500 }
func (s span) end() int64   { return s.w.base + int64(s.before)*1000 - 500 }

// readOne reads what a writer has been told is stored.
func (k *checker) readOne(w *writer, how int) {
	k.mu.Lock()
	s := span{w, 0, w.next}
	k.mu.Unlock()
	if s.before == 0 {
		return
	}
	if how == 0 {
		s.first = max(0, s.before-recentWrites)
	}
	k.persist(&k.read, (*node).queries, func(from *node) error {
		read := (*endpoint).countBack
		if how == 2 {
			read = (*endpoint).readBack
		}
		wrong, err := read(from.web.in(readTimeout), s)
		if wrong != "" {
			k.report("%s, requests %d to %d of %s (%s), all acknowledged before: %s", from.name, s.first, s.before-1, w.name, w.tenant, wrong)
		}
		return err
	})
}

// countBack asks PromQL how many samples of each series there are.
func (e *endpoint) countBack(s span) (wrong string, err error) {
	expr := fmt.Sprintf(`count_over_time(kill_float{writer=%q}[%dms])`, s.w.name, s.end()-s.start())
	params := url.Values{"query": {expr}, "time": {seconds(s.end())}}
	status, body, err := e.do(http.MethodGet, e.prefix+"/api/v1/query?"+params.Encode(), s.w.tenant, nil, nil)
	switch {
	case err != nil:
		return "", &answerError{text: err.Error()}
	case status != http.StatusOK:
		return "", &answerError{status, body}
	}
	var env envelope
	if err := json.Unmarshal([]byte(body), &env); err != nil {
		return "", err
	}
	res, err := decodeResult(env.Data)
	if err != nil {
		return "", err
	}
	want := fmt.Sprint(s.before - s.first)
	good := len(res.Samples) == 4 && len(env.Warnings) == 0
	for _, x := range res.Samples {
		good = good && x.Value[1] == want
	}
	if !good {
		return fmt.Sprintf("want %s samples in each of 4 series, got %s", want, body), nil
	}
	return "", nil
}

// readBack reads the samples themselves.
func (e *endpoint) readBack(s span) (wrong string, err error) {
	got, err := e.read(s.w.tenant, s.start(), s.end(),
		labels.MustNewMatcher(labels.MatchEqual, "__name__", "kill_float"), labels.MustNewMatcher(labels.MatchEqual, "writer", s.w.name))
	switch {
	case errors.Unwrap(err) != nil:
		return "", &answerError{text: err.Error()}
	case err != nil && strings.HasPrefix(err.Error(), "remote read"):
		return "", &answerError{status: http.StatusInternalServerError, text: err.Error()}
	case err != nil: // the answer contradicts itself
		return err.Error(), nil //nolint:nilerr // as said
	}
	var all []string
	for n := s.first; n < s.before; n++ {
		good, _ := s.w.request(n)
		for _, x := range good[:4] { // those of kill_float
			name, p := x.labels.String(), x.points[0]
			have, ok := got[name][p.t]
			delete(got[name], p.t)
			if diff := have.differs(p); !ok || diff != "" {
				all = append(all, fmt.Sprintf("request %d, %s: there: %t; %s", n, name, ok, diff))
			}
		}
	}
	for name, points := range got {
		for at, p := range points {
			all = append(all, fmt.Sprintf("never sent: %s at %d: %s", name, at, p))
		}
	}
	if len(all) > 0 {
		return fmt.Sprintf("%d samples: %s", len(all), strings.Join(all[:min(3, len(all))], "; ")), nil
	}
	return "", nil
}

// in is an endpoint that waits no longer than that for an answer.
func (e *endpoint) in(patience time.Duration) *endpoint {
	other, client := *e, *e.client
	client.Timeout = patience
	other.client = &client
	return &other
}

// check compares everything, through every querier, while nobody writes.
func (k *checker) check(when string) {
	k.t.Helper()
	k.quiet.Lock()
	defer k.quiet.Unlock()
	for _, n := range k.cluster.those(k.label, (*node).queries) {
		checkWriters(k.t, n.hearth, k.writers, when+", "+n.name)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.wrong) > 0 {
		k.t.Fatalf("%d queries gave less or more than they should, among them\n%s", len(k.wrong), strings.Join(k.wrong[:min(10, len(k.wrong))], "\n"))
	}
}

// numbers is how it went so far.
func (k *checker) numbers() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	lines := []string{k.write.String(), k.read.String(), fmt.Sprintf("%d queries gave less or more than they should", len(k.wrong))}
	for _, why := range append(k.write.why, k.read.why...) {
		lines = append(lines, "  failed at "+why)
	}
	return strings.Join(lines, "\n")
}
