package querier

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"
	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/errgroup"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/ring"
	"github.com/hearth-metrics/hearth/wire"
)

const (
	// hedgeAfter is how long a gateway may be silent before others are asked
	// too. One that works has said so at once, however long the work takes.
	hedgeAfter = 500 * time.Millisecond

	// indexPerGateway is how many bytes of block indexes of one tenant one
	// gateway is meant to keep. A tenant that has more is spread over more.
	indexPerGateway = 1 << 30

	// A gateway that restarts is reached again before long.
	storePatience = time.Second
	storeAgain    = 200 * time.Millisecond
)

// sought is a block to search, and the gateways that have not been asked.
type sought struct {
	block   ulid.ULID
	pooled  bool
	holders []ring.Member
}

// asking is how a gateway is asked about some blocks. It calls heard as soon as
// there is a sign of life, and returns what was found and the blocks that were
// searched.
type asking[T any] func(ctx context.Context, c wire.StoreServer, blocks wire.Blocks, heard func()) (T, []ulid.ULID, error)

// searchAll asks for all blocks that a query needs, and again for a moment where
// nobody can answer.
func searchAll[T any](ctx context.Context, q *gatewaysQuerier, do asking[T]) ([]T, error) {
	for began := time.Now(); ; {
		answers, err := fromBlocks(ctx, q.g.list, q.id, q.span.MinT, q.span.MaxT, q.skip, func(n *need) ([]T, error) {
			list, err := q.g.place(string(q.id), n)
			if err != nil {
				return nil, err
			}
			return search(ctx, q.g, list, do)
		})
		switch {
		case err == nil:
			return answers, nil
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case isFinal(ctx, err) || time.Since(began) > storePatience:
			return nil, err
		}
		select {
		case <-time.After(storeAgain):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// place finds the gateways of each block. Each pair of tenant and block has a
// gateway that is asked first, so that caches fill in one place, and a pooled
// block's tenants are spread over all that hold it.
func (g *Gateways) place(tenant string, n *need) ([]sought, error) {
	size := g.ring.ReplicationFactor() + int(n.indexBytes/indexPerGateway)
	list := make([]sought, 0, n.Len())
	for _, b := range n.Own {
		list = append(list, sought{block: b})
	}
	for _, b := range n.Pooled {
		list = append(list, sought{block: b, pooled: true})
	}
	for i := range list {
		s := &list[i]
		shard, size := tenant, size
		if s.pooled {
			shard, size = string(bucket.PoolHome), 0
		}
		var err error
		if s.holders, err = g.ring.Holders(shard, size, uint32(xxhash.Sum64(s.block[:]))); err != nil {
			g.list.logger.Warn("no store gateway for a block, query fails", "block", s.block, "err", err)
			return nil, errNoGateway()
		}
		first := int(xxhash.Sum64String(tenant+s.block.String()) % uint64(len(s.holders)))
		s.holders = slices.Concat(s.holders[first:], s.holders[:first])
	}
	return list, nil
}

func errNoGateway() error {
	return storeUnavailable("err-store-no-gateway", "stored data cannot be read now, try again")
}

// search asks for each block the next gateway of its holders, one question for
// all blocks of a gateway. It returns when every block was searched, or one
// cannot be.
func search[T any](ctx context.Context, g *Gateways, list []sought, do asking[T]) ([]T, error) {
	byMember := map[ring.Member][]sought{}
	for _, s := range list {
		if len(s.holders) == 0 {
			return nil, errBlock()
		}
		m := s.holders[0]
		s.holders = s.holders[1:]
		byMember[m] = append(byMember[m], s)
	}
	answers := make([][]T, len(byMember))
	eg, ctx := errgroup.WithContext(ctx)
	i := 0
	for m, blocks := range byMember {
		answer := &answers[i]
		eg.Go(func() (err error) {
			*answer, err = searchAt(ctx, g, m, blocks, do)
			return err
		})
		i++
	}
	if err := eg.Wait(); err != nil {
		return nil, err
	}
	return slices.Concat(answers...), nil
}

// found is how a question has ended.
type found[T any] struct {
	answers []T
	missing []sought // what it was asked for and has not searched
	err     error
}

// searchAt asks one gateway, and others for what it does not answer. While it
// is silent others are asked for all of it; whoever has it all first wins.
func searchAt[T any](ctx context.Context, g *Gateways, m ring.Member, blocks []sought, do asking[T]) ([]T, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the slower one
	heard, first := make(chan struct{}, 1), make(chan found[T], 1)
	go func() { first <- askOne(ctx, g, m, blocks, heard, do) }()
	silent := time.NewTimer(hedgeAfter)
	defer silent.Stop()
	select {
	case f := <-first:
		return orOthers(ctx, g, m, f, do)
	case <-heard:
		return orOthers(ctx, g, m, <-first, do)
	case <-silent.C:
	}
	g.metrics.asked.WithLabelValues("silent").Inc()
	second := make(chan found[T], 1)
	go func() {
		answers, err := search(ctx, g, blocks, do)
		second <- found[T]{answers: answers, err: err}
	}()
	select {
	case f := <-first:
		if f.err == nil && len(f.missing) == 0 {
			return f.answers, nil
		}
		s := <-second
		return s.answers, s.err
	case s := <-second:
		if s.err == nil || isFinal(ctx, s.err) {
			return s.answers, s.err
		}
		return orOthers(ctx, g, m, <-first, do)
	}
}

// askOne asks one gateway. heard has room for one.
func askOne[T any](ctx context.Context, g *Gateways, m ring.Member, blocks []sought, heard chan<- struct{}, do asking[T]) found[T] {
	var want wire.Blocks
	for _, s := range blocks {
		if s.pooled {
			want.Pooled = append(want.Pooled, s.block)
		} else {
			want.Own = append(want.Own, s.block)
		}
	}
	c, err := g.client(m)
	if err != nil {
		return found[T]{missing: blocks, err: err}
	}
	answer, searched, err := do(ctx, c, want, func() {
		select {
		case heard <- struct{}{}:
		default:
		}
	})
	if err != nil {
		return found[T]{missing: blocks, err: err}
	}
	f := found[T]{answers: []T{answer}}
	done := make(map[ulid.ULID]struct{}, len(searched))
	for _, id := range searched {
		done[id] = struct{}{}
	}
	for _, s := range blocks {
		if _, ok := done[s.block]; !ok {
			f.missing = append(f.missing, s)
		}
	}
	return f
}

// orOthers completes what a gateway has found: what is missing others are
// asked for, unless they would say the same.
func orOthers[T any](ctx context.Context, g *Gateways, m ring.Member, f found[T], do asking[T]) ([]T, error) {
	switch {
	case f.err != nil && isFinal(ctx, f.err):
		return nil, f.err
	case f.err == nil && len(f.missing) == 0:
		g.metrics.asked.WithLabelValues("success").Inc()
		return f.answers, nil
	case f.err == nil:
		f.err = fmt.Errorf("%d blocks were not searched", len(f.missing))
	}
	g.metrics.asked.WithLabelValues("failure").Inc()
	g.list.logger.Debug("store gateway has not answered, asking another one", "instance", m.ID, "blocks", len(f.missing), "err", f.err)
	rest, err := search(ctx, g, f.missing, do)
	if err != nil {
		if !isFinal(ctx, err) {
			g.list.logger.Warn("stored blocks were not searched, query fails", "instance", m.ID, "err", f.err)
		}
		return nil, err
	}
	return append(f.answers, rest...), nil
}

// isFinal says that nobody else would answer better.
func isFinal(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return true
	}
	switch wire.KindOf(err) {
	case wire.Invalid, wire.Limited, wire.TooLarge, wire.NotFound:
		return true
	default:
		return false
	}
}
