package bucket

import (
	"context"
	"fmt"
	"iter"
	"sort"
	"strings"

	"github.com/minio/minio-go/v7"
)

// List implements Bucket.
func (s *s3Bucket) List(ctx context.Context, prefix Key, recursive bool) iter.Seq2[Object, error] {
	return func(yield func(Object, error) bool) {
		l := &s3Listing{s: s, recursive: recursive, yield: yield}
		if err := l.run(ctx, prefix); err != nil {
			yield(Object{}, fmt.Errorf("list %s: %w", prefix, err))
		}
	}
}

// s3Listing is one listing. It remembers what it has yielded, so that it goes
// on from there when a page fails.
type s3Listing struct {
	s         *s3Bucket
	recursive bool
	yield     func(Object, error) bool

	last    Key      // yielded last
	stopped bool     // the caller wants no more
	fails   int      // since the last object
	waiting []Object // read, not yet yielded
}

func (l *s3Listing) run(ctx context.Context, prefix Key) error {
	if err := prefix.validatePrefix(); err != nil {
		return err
	}
	for {
		err := l.pages(ctx, prefix)
		if err == nil {
			l.s.seen.Store(true)
			return nil
		}
		l.fails++
		if err := l.s.again(ctx, opList, l.fails, err); err != nil {
			return err
		}
	}
}

// pages yields the pages after the last object. A page comes as its objects
// and then its folders, each in order, and has to be merged: objects wait until
// a folder behind them comes, or as many others as fit on a page.
func (l *s3Listing) pages(ctx context.Context, prefix Key) error {
	l.waiting = l.waiting[:0]
	opts := minio.ListObjectsOptions{Prefix: l.s.name(prefix), Recursive: l.recursive, MaxKeys: l.s.bounds.page}
	if l.last != "" {
		opts.StartAfter = l.s.name(l.last)
	}
	for info := range l.s.core.ListObjectsIter(ctx, l.s.cfg.Bucket, opts) {
		if info.Err != nil {
			return info.Err
		}
		l.take(info)
		if l.stopped {
			return nil
		}
	}
	// The iterator just ends when the context does.
	if err := ctx.Err(); err != nil {
		return err
	}
	l.flush(len(l.waiting))
	return nil
}

func (l *s3Listing) take(info minio.ObjectInfo) {
	obj := l.s.object(info)
	switch {
	case !strings.HasSuffix(info.Key, "/"):
		l.waiting = append(l.waiting, obj)
		if l.recursive || len(l.waiting) == 2*l.s.bounds.page {
			l.flush((len(l.waiting) + 1) / 2)
		}
	case info.ETag == "":
		l.flush(sort.Search(len(l.waiting), func(i int) bool { return l.waiting[i].Key > obj.Key }))
		l.visit(Object{Key: obj.Key})
	default: // an object that a console made to show a folder
	}
}

// flush yields the first n of the waiting objects.
func (l *s3Listing) flush(n int) {
	for _, obj := range l.waiting[:n] {
		l.visit(obj)
	}
	l.waiting = append(l.waiting[:0], l.waiting[n:]...)
}

func (l *s3Listing) visit(obj Object) {
	if l.stopped || obj.Key <= l.last {
		return
	}
	l.last, l.fails = obj.Key, 0
	l.stopped = !l.yield(obj, nil)
}
