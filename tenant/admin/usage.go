package admin

import (
	"context"
	"net/http"
	"time"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/tenant/meter"
)

// Meter is what was counted.
type Meter interface {
	Usage(ctx context.Context, id tenant.ID, from, to time.Time) ([]meter.Hour, error)
	Refusals(ctx context.Context, id tenant.ID, from, to time.Time) ([]meter.Refusal, error)
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

// maxPeriod bounds how many objects a request reads.
const maxPeriod = 31 * 24 * time.Hour

func (a *API) usageOfAll(r *http.Request) (answer, error) {
	return a.usage(r, tenant.ID(r.URL.Query().Get("tenant")))
}

func (a *API) usageOfOwn(r *http.Request) (answer, error) {
	id, err := tenant.FromContext(r.Context())
	if err != nil {
		return answer{}, err
	}
	return a.usage(r, id)
}

func boundedPeriod(r *http.Request) (from, to time.Time, err error) {
	if from, to, err = period(r); err == nil && to.Sub(from) > maxPeriod {
		err = invalid("from", "lies more than %d days before to", maxPeriod/(24*time.Hour))
	}
	return from, to, err
}

func (a *API) usage(r *http.Request, id tenant.ID) (answer, error) {
	from, to, err := boundedPeriod(r)
	if err != nil {
		return answer{}, err
	}
	hours, err := a.meter.Usage(r.Context(), id, from, to)
	return answer{body: UsageAnswer{from, to, hours}}, err
}

func (a *API) refusedOfOwn(r *http.Request) (answer, error) {
	id, err := tenant.FromContext(r.Context())
	if err != nil {
		return answer{}, err
	}
	from, to, err := boundedPeriod(r)
	if err != nil {
		return answer{}, err
	}
	hours, err := a.meter.Usage(r.Context(), id, from, to)
	if err != nil {
		return answer{}, err
	}
	body := RefusedAnswer{Counts: map[string]int64{}, Hours: []RefusedHour{}}
	for _, h := range hours {
		if len(h.SamplesRefused) == 0 {
			continue
		}
		body.Hours = append(body.Hours, RefusedHour{h.Hour, h.SamplesRefused})
		for reason, n := range h.SamplesRefused {
			body.Counts[reason] += n
		}
	}
	body.Last, err = a.meter.Refusals(r.Context(), id, from, to)
	return answer{body: body}, err
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
