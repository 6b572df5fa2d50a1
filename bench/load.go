package main

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/golang/snappy"
	"golang.org/x/sync/errgroup"
)

// Spec says what to write. Every series gets one sample each Step, all of
// them the last one at End.
type Spec struct {
	Tenants    int           // 0: one tenant, "bench"
	Series     int           // of each tenant
	Samples    int           // of each series
	Step       time.Duration // between two samples of a series
	End        time.Time     // of the last sample, rounded down to Step
	PerRequest int           // samples in one request, one of each series
	Senders    int           // each sends its own series, in order of time
	V2         bool          // remote write 2.0 instead of 1.0
	Name       string        // of the one tenant; "": "bench"
}

// Load is everything a Spec sends, encoded and compressed before any clock
// starts, so that the generator takes little CPU from the server it measures.
// It lies in files, one for each sender; several targets get the same bytes.
type Load struct {
	Spec

	Families   map[string]int // series of each metric name, of one tenant
	LabelBytes int64          // names and values of all series
	RawBytes   int64          // of all requests before compression
	Bytes      int64          // of all requests
	lanes      []lane
}

// lane is what one sender sends.
type lane struct {
	path     string
	requests []request
	perStep  int // requests with the same time
}

// request is one body in a lane's file.
type request struct {
	off     int64
	size    int32
	samples int32
	tenant  int32
}

// batch is a run of one tenant's series that share their requests.
type batch struct{ tenant, from, to int }

// Total is the number of samples in the load.
func (l *Load) Total() int64 { return int64(max(1, l.Tenants)) * int64(l.Series) * int64(l.Samples) }

// AllSeries is the number of series in the load.
func (l *Load) AllSeries() int { return max(1, l.Tenants) * l.Series }

// Last is the time of the last samples.
func (s *Spec) Last() time.Time { return s.End.Truncate(s.Step) }

// First is the time of the first samples.
func (s *Spec) First() time.Time { return s.Last().Add(-time.Duration(s.Samples-1) * s.Step) }

// TenantName is the id of tenant n of the load.
func (s *Spec) TenantName(n int) string {
	if s.Tenants == 0 {
		return cmp.Or(s.Name, "bench")
	}
	return fmt.Sprintf("tenant-%05d", n)
}

// Prepare encodes a load into files below dir.
func Prepare(ctx context.Context, spec Spec, dir string) (*Load, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	load := &Load{Spec: spec, Families: map[string]int{}, lanes: make([]lane, spec.Senders)}
	stats := make([]laneStats, spec.Senders)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.GOMAXPROCS(0))
	for i, batches := range spec.divide() {
		g.Go(func() error {
			path := filepath.Join(dir, fmt.Sprintf("load-%d", i))
			var err error
			load.lanes[i], stats[i], err = writeLane(ctx, spec, batches, path)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("prepare load: %w", err)
	}
	for _, st := range stats {
		load.LabelBytes += st.labelBytes
		load.RawBytes += st.raw
		load.Bytes += st.compressed
		for name, n := range st.families {
			load.Families[name] += n
		}
	}
	return load, nil
}

func (s *Spec) check() error {
	if s.Series <= 0 || s.Samples <= 0 || s.PerRequest <= 0 || s.Senders <= 0 || s.Step < time.Millisecond {
		return fmt.Errorf("a load needs series, samples, a step, requests and senders: %+v", *s)
	}
	if err := checkTime(s.First().UnixMilli()); err != nil {
		return err
	}
	return checkTime(s.Last().UnixMilli())
}

// divide deals the batches out to the senders.
func (s *Spec) divide() [][]batch {
	lanes := make([][]batch, s.Senders)
	n := 0
	for t := range max(1, s.Tenants) {
		for from := 0; from < s.Series; from += s.PerRequest {
			b := batch{tenant: t, from: from, to: min(from+s.PerRequest, s.Series)}
			lanes[n%s.Senders] = append(lanes[n%s.Senders], b)
			n++
		}
	}
	return lanes
}

type laneStats struct {
	labelBytes, raw, compressed int64
	families                    map[string]int
}

// stream is a batch being written: its series' curves and its request.
type stream struct {
	batch  batch
	curves []curve
	body   *body
}

// writeLane encodes one sender's requests in the order of sending: all series
// at the first time, then all at the next.
func writeLane(ctx context.Context, spec Spec, batches []batch, path string) (_ lane, st laneStats, err error) {
	f, err := os.Create(path)
	if err != nil {
		return lane{}, st, err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	st.families = map[string]int{}
	streams := make([]stream, len(batches))
	for i, b := range batches {
		streams[i] = newStream(spec, b, &st)
	}

	out := lane{path: path, requests: make([]request, 0, len(batches)*spec.Samples), perStep: len(batches)}
	w := bufio.NewWriterSize(f, 1<<20)
	var packed []byte
	for n := range spec.Samples {
		if err := ctx.Err(); err != nil {
			return lane{}, st, err
		}
		at := spec.First().Add(time.Duration(n) * spec.Step).UnixMilli()
		for i := range streams {
			packed = streams[i].encode(packed, at)
			out.requests = append(out.requests, request{
				off: st.compressed, size: int32(len(packed)),
				samples: int32(len(streams[i].curves)), tenant: int32(streams[i].batch.tenant),
			})
			st.raw += int64(len(streams[i].body.raw))
			st.compressed += int64(len(packed))
			if _, err := w.Write(packed); err != nil {
				return lane{}, st, err
			}
		}
	}
	return out, st, w.Flush()
}

func newStream(spec Spec, b batch, st *laneStats) stream {
	all := population(b.tenant, b.from, b.to)
	s := stream{batch: b, curves: make([]curve, len(all))}
	for i := range all {
		s.curves[i] = all[i].curve
		if b.tenant == 0 {
			st.families[all[i].name()]++
		}
		for _, l := range all[i].labels {
			st.labelBytes += int64(len(l.name) + len(l.value))
		}
	}
	if spec.V2 {
		s.body = encodeV2(all)
	} else {
		s.body = encodeV1(all)
	}
	return s
}

// encode fills in the samples of the next time and compresses the request
// into buf.
func (s *stream) encode(buf []byte, at int64) []byte {
	for i := range s.curves {
		s.body.set(i, s.curves[i].next(), at)
	}
	return snappy.Encode(buf[:cap(buf)], s.body.raw)
}

// Remove deletes the load's files.
func (l *Load) Remove() error {
	for _, ln := range l.lanes {
		if err := os.Remove(ln.path); err != nil {
			return err
		}
	}
	return nil
}
