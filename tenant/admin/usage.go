package admin

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/tenant/meter"
	"github.com/hearth-metrics/hearth/wire"
)

// Meter is what was counted.
type Meter interface {
	Usage(ctx context.Context, id tenant.ID, from, to time.Time) ([]meter.Hour, error)
	Refusals(ctx context.Context, id tenant.ID, from, to time.Time) ([]meter.Hour, []meter.Refusal, error)
	Stats(ctx context.Context, id tenant.ID) (meter.Stats, error)
}

// UsageAnswer is usage by tenant and hour.
type UsageAnswer struct {
	From  time.Time    `json:"from"`
	To    time.Time    `json:"to"`
	Hours []meter.Hour `json:"hours"`
}

// RefusedAnswer is what was refused of a tenant, and why.
type RefusedAnswer struct {
	Counts map[string]int64 `json:"counts"` // by error id, all of the time asked for
	Hours  []RefusedHour    `json:"hours"`
	Last   []meter.Refusal  `json:"last"` // a few of each hour, the newest first
}

// RefusedHour is what was refused in an hour, by error id.
type RefusedHour struct {
	Hour   time.Time        `json:"hour"`
	Counts map[string]int64 `json:"counts"`
}

const (
	// maxPeriod bounds how many objects a request reads.
	maxPeriod = 31 * 24 * time.Hour
	// hoursPerSecond and hoursAtOnce bound how many hours a tenant's own
	// requests read: each is some requests to the bucket.
	hoursPerSecond = 1
	hoursAtOnce    = 100 * 24
)

// paced says whether a tenant may read so many hours of usage now.
func (a *API) paced(id tenant.ID, hours int) error {
	now := time.Now()
	r := a.asked.Of(id, hoursPerSecond, hoursAtOnce, now).ReserveN(now, hours)
	if after := r.DelayFrom(now); after > 0 {
		r.CancelAt(now)
		return &wire.UserError{
			Kind: wire.Limited, ID: "err-usage-rate", RetryAfter: max(time.Second, after),
			Msg: fmt.Sprintf("usage is asked for too often: %d hours of it are read at once and %d each second after that; ask for a shorter period, or less often", hoursAtOnce, hoursPerSecond),
		}
	}
	return nil
}

func hoursOf(from, to time.Time) int { return int(to.Sub(from)/time.Hour) + 1 }

// statsOf is what a tenant uses now, for itself.
func (a *API) statsOf(ctx context.Context, id tenant.ID) (meter.Stats, error) {
	if err := a.paced(id, 1); err != nil {
		return meter.Stats{}, err
	}
	return a.meter.Stats(ctx, id)
}

func (a *API) usageOfAll(r *http.Request) (answer, error) {
	from, to, err := boundedPeriod(r)
	if err != nil {
		return answer{}, err
	}
	return a.usage(r.Context(), tenant.ID(r.URL.Query().Get("tenant")), from, to)
}

func (a *API) usageOfOwn(r *http.Request) (answer, error) {
	id, err := tenant.FromContext(r.Context())
	if err != nil {
		return answer{}, err
	}
	from, to, err := boundedPeriod(r)
	if err == nil {
		err = a.paced(id, hoursOf(from, to))
	}
	if err != nil {
		return answer{}, err
	}
	return a.usage(r.Context(), id, from, to)
}

func boundedPeriod(r *http.Request) (from, to time.Time, err error) {
	if from, to, err = period(r); err == nil && to.Sub(from) > maxPeriod {
		err = invalid("from", "lies more than %d days before to", maxPeriod/(24*time.Hour))
	}
	return from, to, err
}

func (a *API) usage(ctx context.Context, id tenant.ID, from, to time.Time) (answer, error) {
	hours, err := a.meter.Usage(ctx, id, from, to)
	return answer{body: UsageAnswer{from, to, hours}}, err
}

func (a *API) refusedOfOwn(r *http.Request) (answer, error) {
	id, err := tenant.FromContext(r.Context())
	if err != nil {
		return answer{}, err
	}
	from, to, err := boundedPeriod(r)
	if err == nil {
		err = a.paced(id, hoursOf(from, to))
	}
	if err != nil {
		return answer{}, err
	}
	hours, last, err := a.meter.Refusals(r.Context(), id, from, to)
	if err != nil {
		return answer{}, err
	}
	body := RefusedAnswer{Counts: map[string]int64{}, Hours: []RefusedHour{}, Last: last}
	for _, h := range hours {
		if len(h.SamplesRefused) == 0 {
			continue
		}
		body.Hours = append(body.Hours, RefusedHour{h.Hour, h.SamplesRefused})
		for reason, n := range h.SamplesRefused {
			body.Counts[reason] += n
		}
	}
	return answer{body: body}, nil
}

// ConfigAnswer is how a tenant's clients are configured.
type ConfigAnswer struct {
	Endpoints Endpoints `json:"endpoints"`
	Snippets  Snippets  `json:"snippets"`
}

func (a *API) configOfOwn(r *http.Request) (answer, error) {
	id, err := tenant.FromContext(r.Context())
	if err != nil {
		return answer{}, err
	}
	e := endpointsOf(r)
	return answer{body: ConfigAnswer{e, snippetsOf(e, id, "")}}, nil
}
