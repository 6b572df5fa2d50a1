package querier

import (
	"math"
	"net/url"
	"sync/atomic"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// refuse counts a limit that a query ran into.
func (q *Querier) refuse(err *wire.UserError) error {
	q.metrics.refused.WithLabelValues(err.ID).Inc()
	return err
}

// checkExpression bounds what the parser gets to see. Selectors in match[]
// cost as much as those in an expression.
func (q *Querier) checkExpression(l *tenant.Limits, form url.Values) error {
	if l.MaxQueryExpression <= 0 {
		return nil
	}
	size := len(form.Get("query"))
	for _, m := range form["match[]"] {
		size += len(m)
	}
	if size <= l.MaxQueryExpression {
		return nil
	}
	return q.refuse(wire.Errorf(wire.Limited, "err-max-query-expression-size",
		"the query is %d bytes long, the limit is %d (limit max_query_expression_size). Shorten it or ask for a higher limit",
		size, l.MaxQueryExpression))
}

// checkLength bounds the time that one evaluation spans: from start to end,
// the range of each selector, and that of subqueries inside one another.
func (q *Querier) checkLength(l *tenant.Limits, stmt *parser.EvalStmt) error {
	most := time.Duration(l.MaxQueryLength)
	if most <= 0 {
		return nil
	}
	longest := stmt.End.Sub(stmt.Start)
	parser.Inspect(stmt.Expr, func(node parser.Node, path []parser.Node) error {
		switch n := node.(type) {
		case *parser.MatrixSelector:
			longest = max(longest, n.Range)
		case *parser.SubqueryExpr:
			span := n.Range
			for _, outer := range path {
				if s, ok := outer.(*parser.SubqueryExpr); ok {
					span += s.Range
				}
			}
			longest = max(longest, span)
		}
		return nil
	})
	return q.checkSpan(l, longest)
}

// checkSpan bounds the time between the first and the last sample asked for.
func (q *Querier) checkSpan(l *tenant.Limits, span time.Duration) error {
	if most := time.Duration(l.MaxQueryLength); most <= 0 || span <= most {
		return nil
	}
	return q.refuse(wire.Errorf(wire.Limited, "err-max-query-length",
		"the query spans %s, the limit is %s (limit max_query_length). Ask for a shorter range or for a higher limit",
		model.Duration(span), l.MaxQueryLength))
}

// spanOf is the time from mint to maxt, or the longest there is.
func spanOf(mint, maxt int64) time.Duration {
	ms := maxt - mint
	if maxt < mint {
		return 0
	}
	if ms < 0 || ms > int64(math.MaxInt64/time.Millisecond) {
		return math.MaxInt64
	}
	return time.Duration(ms) * time.Millisecond
}

// clamp moves mint to where the tenant's look back begins. What lies before is
// not there for the tenant; asking for it is no error.
func clamp(l *tenant.Limits, mint int64) int64 {
	if l.MaxQueryLookback <= 0 {
		return mint
	}
	return max(mint, time.Now().Add(-time.Duration(l.MaxQueryLookback)).UnixMilli())
}

// seriesCount counts the series of one query over all its selectors. One that
// two selectors find counts twice, as it is held twice.
type seriesCount struct {
	n       atomic.Int64
	samples atomic.Int64 // in chunks that were read as they are
	labels  atomic.Int64 // bytes of series that are the answer
}

func (q *Querier) countSeries(l *tenant.Limits, c *seriesCount) error {
	n, most := c.n.Add(1), int64(l.MaxSeriesPerQuery)
	if most <= 0 || n <= most {
		return nil
	}
	err := errTooManySeries(l)
	if n > most+1 {
		return err // another selector of the same query, which is refused already
	}
	return q.refuse(err)
}

func errTooManySeries(l *tenant.Limits) *wire.UserError {
	return wire.Errorf(wire.Limited, "err-max-series-per-query",
		"the query selects more than %d series (limit max_series_per_query). Select fewer or ask for a higher limit", l.MaxSeriesPerQuery)
}

func (q *Querier) tooManySamples(l *tenant.Limits) error {
	return q.refuse(wire.Errorf(wire.Limited, "err-max-samples-per-query",
		"the query needs more than %d samples in memory at once (limit max_samples_per_query). Select fewer series, a shorter range or a longer step, or ask for a higher limit",
		l.MaxSamplesPerQuery))
}
