package tenant

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/model"
)

// Limits is what one tenant may do. The zero value of a number means "no
// limit" unless the field says otherwise. Durations are written as in
// Prometheus ("30m", "1d").
type Limits struct {
	// What a request may contain. Checked by the distributor.
	MaxLabelNamesPerSeries  int            `yaml:"max_label_names_per_series"`   // labels of one series, the metric name counts
	MaxLabelNameLength      int            `yaml:"max_label_name_length"`        // bytes
	MaxLabelValueLength     int            `yaml:"max_label_value_length"`       // bytes
	MaxLabelsSize           int            `yaml:"max_labels_size"`              // bytes of all names and values of one series
	MaxHistogramBuckets     int            `yaml:"max_native_histogram_buckets"` // buckets of one native histogram sample
	MaxExemplarLabelsLength int            `yaml:"max_exemplar_labels_length"`   // bytes of names and values; OpenMetrics says 128 characters
	CreationGracePeriod     model.Duration `yaml:"creation_grace_period"`        // how far in the future a sample may be
	PastGracePeriod         model.Duration `yaml:"past_grace_period"`            // how far in the past; 0: only out_of_order_window decides
	IngestionRate           float64        `yaml:"ingestion_rate"`               // samples per second; those that are refused count, and 4 KiB of a request count as one at least
	IngestionBurst          int            `yaml:"ingestion_burst_size"`         // samples
	IngestionBytesRate      float64        `yaml:"ingestion_bytes_rate"`         // bytes of write requests per second, decompressed
	IngestionBytesBurst     int            `yaml:"ingestion_bytes_burst_size"`   // bytes; counts only with ingestion_bytes_rate
	RateLimitStatus         int            `yaml:"rate_limit_status"`            // how senders that are too fast are answered: 429, which Prometheus drops unless retry_on_http_429 is true, or 503, which it sends again

	// How often it may come, and with how much that is easily too much. Checked by the distributor.
	RequestRate           float64 `yaml:"request_rate"`                         // write requests per second
	RequestBurst          int     `yaml:"request_burst_size"`                   // write requests; counts only with request_rate
	MaxExemplarsPerSeries int     `yaml:"max_exemplars_per_series_per_request"` // exemplars of one series in one request; the last ones are kept

	// Pairs of Prometheus that scrape the same. Deduplicated by the distributor.
	HADedupe       bool   `yaml:"ha_dedupe"`        // of replicas that differ in ha_replica_label only, store what one sends
	HAClusterLabel string `yaml:"ha_cluster_label"` // external label that both replicas of a pair have, with one value
	HAReplicaLabel string `yaml:"ha_replica_label"` // external label that tells the replicas apart; not stored
	MaxHAClusters  int    `yaml:"max_ha_clusters"`  // values of ha_cluster_label

	// What a tenant may keep. Checked by the ingester.
	MaxSeries        int            `yaml:"max_series"`          // active series
	OutOfOrderWindow model.Duration `yaml:"out_of_order_window"` // how far behind the tenant's newest sample a sample may be
	MaxMetadata      int            `yaml:"max_metadata"`        // metrics with metadata
	ShardSize        int            `yaml:"shard_size"`          // ingesters that the tenant's series are spread over, in a cluster; 0: as many as they need
	OwnHead          bool           `yaml:"own_head"`            // a head of its own from the first sample on

	// What a tenant may keep of one kind. Checked by the ingester.
	MaxSeriesPerMetric   int        `yaml:"max_series_per_metric"`   // active series of one metric
	LabelSets            []LabelSet `yaml:"limits_per_label_set"`    // active series that have certain labels: a list of {label_set: {team: payments}, limits: {max_series: 1000}}
	MaxMetadataPerMetric int        `yaml:"max_metadata_per_metric"` // different types, units and help texts of one metric

	// Whether it may upload whole blocks. Checked by the importer.
	BlockUploadEnabled bool `yaml:"block_upload_enabled"`  // blocks that others have written, past all rates and the number of series
	MaxBlockUploadSize int  `yaml:"max_block_upload_size"` // bytes of all files of one block

	// How long it is kept. Applied by the compactor.
	Retention model.Duration `yaml:"retention"` // how long samples are kept, give or take a block, of up to a day; 0: for ever

	// What a query may ask. Checked by the querier.
	MaxQueryLength     model.Duration `yaml:"max_query_length"`          // of one range query or selector
	MaxQueryLookback   model.Duration `yaml:"max_query_lookback"`        // how far back a query sees
	MaxQueryExpression int            `yaml:"max_query_expression_size"` // bytes
	MaxSeriesPerQuery  int            `yaml:"max_series_per_query"`      // series that one query selects
	MaxSamplesPerQuery int            `yaml:"max_samples_per_query"`     // samples that one query holds in memory at once
	MaxChunkBytes      int            `yaml:"max_chunk_bytes_per_query"` // bytes of chunks that one query fetches from stored blocks
	MaxResponseSize    int            `yaml:"max_query_response_size"`   // bytes of one answer, about: labels as they are, 32 for each sample
	QueryTimeout       model.Duration `yaml:"query_timeout"`             // how long one query may take; 0: querier.timeout, which it cannot exceed
	MaxQueries         int            `yaml:"max_concurrent_queries"`    // running at once, per querier; more wait, then 429

	// What rules a tenant may have, and where its alerts go. Used by the ruler.
	MaxRuleGroups     int            `yaml:"max_rule_groups"`     // in all namespaces
	MaxRulesPerGroup  int            `yaml:"max_rules_per_group"` // in one group
	RuleSourceTenants string         `yaml:"rule_source_tenants"` // whose data a group may read by source_tenants, besides the tenant's own: ids separated by commas, or * for anybody's; empty: nobody's
	RuleQueryOffset   model.Duration `yaml:"rule_query_offset"`   // how far in the past rules are evaluated, so that late samples count; a group's query_offset goes first
	AlertmanagerURLs  string         `yaml:"alertmanager_urls"`   // Alertmanagers outside of Hearth that get the tenant's alerts, all of a cluster, separated by commas; empty: the tenant's own

	MinRuleInterval model.Duration `yaml:"min_rule_evaluation_interval"` // of a group; one that says less is refused

	// What the tenant's Alertmanager holds and sends. Checked by the alertmanager.
	MaxAlertConfigSize   int     `yaml:"max_alertmanager_config_size"`   // bytes of alertmanager_config
	MaxAlertTemplates    int     `yaml:"max_alertmanager_templates"`     // template files
	MaxAlertTemplateSize int     `yaml:"max_alertmanager_template_size"` // bytes of one template file
	MaxAlerts            int     `yaml:"max_alerts"`                     // firing at once
	MaxAlertSize         int     `yaml:"max_alert_size"`                 // bytes of the labels and annotations of one alert
	MaxAlertGroups       int     `yaml:"max_alert_groups"`               // groups that routes make of the alerts
	MaxSilences          int     `yaml:"max_silences"`                   // those that have ended in the last five days count
	MaxSilenceSize       int     `yaml:"max_silence_size"`               // bytes of one silence
	NotificationRate     float64 `yaml:"notification_rate"`              // notifications per second over all receivers, in bursts of ten seconds' worth
}

// DefaultLimits suits a tenant of some tens of thousands of series.
func DefaultLimits() Limits {
	return Limits{
		MaxLabelNamesPerSeries:  40,
		MaxLabelNameLength:      1024,
		MaxLabelValueLength:     2048,
		MaxLabelsSize:           16 << 10,
		MaxHistogramBuckets:     320,
		MaxExemplarLabelsLength: 128,
		CreationGracePeriod:     model.Duration(10 * time.Minute),
		IngestionRate:           1_000_000,
		IngestionBurst:          4_000_000,
		IngestionBytesBurst:     64 << 20,
		RateLimitStatus:         429,

		RequestBurst: 1000,

		HAClusterLabel: "cluster",
		HAReplicaLabel: "__replica__",
		MaxHAClusters:  100,

		MaxSeries:        1_500_000,
		OutOfOrderWindow: model.Duration(12 * time.Hour),
		MaxMetadata:      20_000,

		LabelSets:            []LabelSet{},
		MaxMetadataPerMetric: 10,

		MaxBlockUploadSize: 64 << 30,

		MaxQueryExpression: 64 << 10,
		MaxSeriesPerQuery:  500_000,
		MaxSamplesPerQuery: 50_000_000,
		MaxChunkBytes:      2 << 30,
		MaxResponseSize:    256 << 20,
		MaxQueries:         20,

		MaxRuleGroups:    1000,
		MaxRulesPerGroup: 500,

		MaxAlertConfigSize:   1 << 20,
		MaxAlertTemplates:    50,
		MaxAlertTemplateSize: 256 << 10,
		MaxAlerts:            20_000,
		MaxAlertSize:         32 << 10,
		MaxAlertGroups:       5_000,
		MaxSilences:          2_000,
		MaxSilenceSize:       64 << 10,
		NotificationRate:     10,
	}
}

// Validate names the first limit that has a value that cannot be.
func (l *Limits) Validate() error {
	if l.RateLimitStatus != 429 && l.RateLimitStatus != 503 {
		return fmt.Errorf("rate_limit_status: want 429 or 503, got %d", l.RateLimitStatus)
	}
	if len(l.LabelSets) > maxLabelSets {
		return fmt.Errorf("limits_per_label_set: want at most %d label sets, got %d", maxLabelSets, len(l.LabelSets))
	}
	for i, s := range l.LabelSets {
		switch {
		case len(s.LabelSet) == 0:
			return fmt.Errorf("limits_per_label_set[%d].label_set: want at least one label", i)
		case s.Limits.MaxSeries <= 0:
			return fmt.Errorf("limits_per_label_set[%d].limits.max_series: want a number above 0, got %d", i, s.Limits.MaxSeries)
		case slices.ContainsFunc(l.LabelSets[:i], s.Same):
			return fmt.Errorf("limits_per_label_set[%d].label_set: %s is there twice", i, s)
		}
	}
	return nil
}

// maxLabelSets bounds what each new series is compared with.
const maxLabelSets = 100

// LabelSet is what a tenant may have of series with certain labels.
type LabelSet struct {
	LabelSet map[string]string `yaml:"label_set" json:"label_set"` // all of them
	Limits   LabelSetLimits    `yaml:"limits" json:"limits"`
}

// LabelSetLimits are the limits of a label set.
type LabelSetLimits struct {
	MaxSeries int `yaml:"max_series" json:"max_series"` // active series
}

// Same says whether two label sets are of the same labels.
func (s LabelSet) Same(o LabelSet) bool { return maps.Equal(s.LabelSet, o.LabelSet) }

// String writes the labels as PromQL does.
func (s LabelSet) String() string {
	pairs := make([]string, 0, len(s.LabelSet))
	for _, name := range slices.Sorted(maps.Keys(s.LabelSet)) {
		pairs = append(pairs, name+"="+strconv.Quote(s.LabelSet[name]))
	}
	return "{" + strings.Join(pairs, ", ") + "}"
}

// LimitsConfig is where limits come from: what everyone has, and for plans and
// some tenants what replaces it. A plan or a tenant that is named here starts
// from Defaults, so only what differs is written.
type LimitsConfig struct {
	Defaults Limits            `yaml:"defaults"`
	Plans    map[string]Limits `yaml:"plans"` // the same keys as `limits.defaults`, for the tenants that have the plan; a plan of this name that was made by the API does not count
	Tenants  map[ID]Limits     `yaml:"tenants"`
}

// CheckPlans names the first plan whose name cannot be.
func (c *LimitsConfig) CheckPlans() error {
	for _, name := range slices.Sorted(maps.Keys(c.Plans)) {
		if !planName.MatchString(name) {
			return fmt.Errorf("limits.plans: want names of 1 to 63 letters, digits and _ . -, got %q", name)
		}
	}
	return nil
}

// Of returns the limits of a tenant. It is cheap enough to be called on every
// request; the caller does not change what it points to.
func (c *LimitsConfig) Of(id ID) *Limits {
	l, ok := c.Tenants[id]
	if !ok {
		return &c.Defaults
	}
	own := l // so that only these tenants cost an allocation
	return &own
}
