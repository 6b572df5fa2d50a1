package block

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/tsdb/index"

	"github.com/hearth-metrics/hearth/bucket"
)

// shown is a block as a View shows it. With a view that changes no labels it is
// the block itself.
type shown struct {
	tsdb.BlockReader

	base   tsdb.IndexReader // nil: the block's own index will do
	order  []storage.SeriesRef
	labels map[storage.SeriesRef]labels.Labels
	words  []string
}

type shownSeries struct {
	ref    storage.SeriesRef
	labels labels.Labels
}

// of makes the block that a view shows. Labels of all its series are in memory:
// with labels added their order is another.
func (v View) of(ctx context.Context, b *tsdb.Block) (*shown, error) {
	s := &shown{BlockReader: b}
	if v.Tenant == "" && len(v.Add) == 0 {
		return s, nil
	}
	var err error
	if s.base, err = b.Index(); err != nil {
		return nil, fmt.Errorf("open index: %w", err)
	}
	all, err := v.series(ctx, s.base)
	if err == nil {
		err = inOrder(all)
	}
	if err != nil {
		_ = s.close() // it was only read
		return nil, err
	}
	s.labels = make(map[storage.SeriesRef]labels.Labels, len(all))
	words := map[string]struct{}{}
	for _, x := range all {
		s.order = append(s.order, x.ref)
		s.labels[x.ref] = x.labels
		x.labels.Range(func(l labels.Label) {
			for _, w := range []string{l.Name, l.Value} {
				if _, ok := words[w]; !ok {
					words[strings.Clone(w)] = struct{}{} // it is part of all the series' labels
				}
			}
		})
	}
	s.words = slices.Sorted(maps.Keys(words))
	return s, nil
}

// series are those of the view, with the labels that it shows.
func (v View) series(ctx context.Context, r tsdb.IndexReader) ([]shownSeries, error) {
	list := tsdb.AllSortedPostings(ctx, r)
	if v.Tenant != "" {
		var err error
		if list, err = r.Postings(ctx, bucket.PoolLabel, v.Tenant); err != nil {
			return nil, fmt.Errorf("find series: %w", err)
		}
	}
	var all []shownSeries
	var builder labels.ScratchBuilder
	for list.Next() {
		if err := r.Series(list.At(), &builder, nil); err != nil {
			return nil, fmt.Errorf("read series: %w", err)
		}
		ls := builder.Labels()
		if v.Tenant != "" {
			_, ls = bucket.SplitPoolLabels(ls)
		}
		all = append(all, shownSeries{list.At(), put(ls, v.Add)})
	}
	return all, list.Err()
}

func (s *shown) close() error {
	if s.base == nil {
		return nil
	}
	return s.base.Close()
}

// Index implements tsdb.BlockReader.
func (s *shown) Index() (tsdb.IndexReader, error) {
	r, err := s.BlockReader.Index()
	if err != nil || s.base == nil {
		return r, err
	}
	return shownIndex{r, s}, nil
}

type shownIndex struct {
	tsdb.IndexReader

	shown *shown
}

// Symbols implements tsdb.IndexReader.
func (x shownIndex) Symbols() index.StringIter { return index.NewStringListIter(x.shown.words) }

// SortedPostings implements tsdb.IndexReader: whatever is asked, it is all that
// is shown.
func (x shownIndex) SortedPostings(index.Postings) index.Postings {
	return index.NewListPostings(x.shown.order)
}

// Series implements tsdb.IndexReader.
func (x shownIndex) Series(ref storage.SeriesRef, builder *labels.ScratchBuilder, metas *[]chunks.Meta) error {
	if err := x.IndexReader.Series(ref, builder, metas); err != nil {
		return err
	}
	builder.Assign(x.shown.labels[ref])
	return nil
}
