package admin

import (
	"net/http"
	"time"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/tenant/meter"
	"github.com/hearth-metrics/hearth/wire"
)

// LimitsAnswer is a tenant's limits, with where each comes from, and what it
// uses of them.
type LimitsAnswer struct {
	Tenant tenant.ID                        `json:"tenant"`
	Plan   string                           `json:"plan,omitempty"`
	Limits map[string]tenant.EffectiveLimit `json:"limits"`
	Use    meter.Stats                      `json:"use"`
}

func (a *API) limitsOfPath(r *http.Request) (answer, error) {
	if _, ok := a.registry.Tenant(pathTenant(r)); !ok {
		return answer{}, wire.Errorf(wire.NotFound, "err-not-found", "there is no tenant %q", pathTenant(r))
	}
	use, err := a.meter.Stats(r.Context(), pathTenant(r))
	return a.limits(pathTenant(r), use), err
}

func (a *API) limitsOfOwn(r *http.Request) (answer, error) {
	id, err := tenant.FromContext(r.Context())
	if err != nil {
		return answer{}, err
	}
	use, err := a.statsOf(r.Context(), id)
	return a.limits(id, use), err
}

func (a *API) limits(id tenant.ID, use meter.Stats) answer {
	t, _ := a.registry.Tenant(id)
	return answer{body: LimitsAnswer{id, t.Plan, a.registry.EffectiveLimits(id), use}}
}

// UserLimits is what Mimir answers at the same path: some limits, by Mimir's
// names, numbers as Mimir counts (0: no limit), durations in nanoseconds.
type UserLimits struct {
	RequestRate               float64 `json:"request_rate"`
	RequestBurst              int     `json:"request_burst_size"`
	IngestionRate             float64 `json:"ingestion_rate"`
	IngestionBurst            int     `json:"ingestion_burst_size"`
	MaxGlobalSeries           int     `json:"max_global_series_per_user"`
	MaxGlobalSeriesPerMetric  int     `json:"max_global_series_per_metric"`
	MaxGlobalExemplars        int     `json:"max_global_exemplars_per_user"`
	MaxGlobalMetadata         int     `json:"max_global_metadata_per_user"`
	MaxFetchedChunks          int     `json:"max_fetched_chunks_per_query"`
	MaxFetchedSeries          int     `json:"max_fetched_series_per_query"`
	MaxFetchedChunkBytes      int     `json:"max_fetched_chunk_bytes_per_query"`
	RulerMaxRulesPerRuleGroup int     `json:"ruler_max_rules_per_rule_group"`
	RulerMaxRuleGroups        int     `json:"ruler_max_rule_groups_per_tenant"`
	BlocksRetention           int64   `json:"compactor_blocks_retention_period"`
}

func (a *API) userLimits(r *http.Request) (answer, error) {
	id, err := tenant.FromContext(r.Context())
	if err != nil {
		return answer{}, err
	}
	l := a.registry.Limits(id)
	return answer{body: UserLimits{
		RequestRate: l.RequestRate, RequestBurst: l.RequestBurst,
		IngestionRate: l.IngestionRate, IngestionBurst: l.IngestionBurst,
		MaxGlobalSeries: l.MaxSeries, MaxGlobalSeriesPerMetric: l.MaxSeriesPerMetric, MaxGlobalMetadata: l.MaxMetadata,
		MaxFetchedSeries: l.MaxSeriesPerQuery, MaxFetchedChunkBytes: l.MaxChunkBytes,
		RulerMaxRulesPerRuleGroup: l.MaxRulesPerGroup, RulerMaxRuleGroups: l.MaxRuleGroups,
		BlocksRetention: int64(l.Retention),
	}}, nil
}

// UserStats is what Cortex answers at the same path.
type UserStats struct {
	IngestionRate     float64 `json:"ingestionRate"`
	NumSeries         int     `json:"numSeries"`
	APIIngestionRate  float64 `json:"APIIngestionRate"`
	RuleIngestionRate float64 `json:"RuleIngestionRate"`
	ActiveSeries      int     `json:"activeSeries"`
}

func (a *API) userStats(r *http.Request) (answer, error) {
	id, err := tenant.FromContext(r.Context())
	if err != nil {
		return answer{}, err
	}
	s, err := a.statsOf(r.Context(), id)
	return answer{body: UserStats{IngestionRate: s.SamplesPerSecond, NumSeries: int(s.ActiveSeries), ActiveSeries: int(s.ActiveSeries), APIIngestionRate: s.SamplesPerSecond}}, err
}

// AuditAnswer is who has changed what, newest first.
type AuditAnswer struct {
	Entries []tenant.AuditEntry `json:"entries"`
}

// auditPeriod is what is shown of the audit if the request does not say.
const auditPeriod = 30 * 24 * time.Hour

func (a *API) audit(r *http.Request) (answer, error) {
	to, err := timeParam(r, "to", time.Now().UTC())
	if err != nil {
		return answer{}, err
	}
	from, err := timeParam(r, "from", to.Add(-auditPeriod))
	if err != nil {
		return answer{}, err
	}
	limit, err := limitParam(r)
	if err != nil {
		return answer{}, err
	}
	entries, err := a.registry.Audit(r.Context(), tenant.ID(r.URL.Query().Get("tenant")), from, to)
	if err != nil {
		return answer{}, err
	}
	return answer{body: AuditAnswer{append([]tenant.AuditEntry{}, entries[:min(limit, len(entries))]...)}}, nil
}
