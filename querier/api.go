package querier

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/grafana/regexp"
	"github.com/prometheus/common/route"
	"github.com/prometheus/prometheus/config"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	v1 "github.com/prometheus/prometheus/web/api/v1"
)

// apiVersion is the Prometheus whose API this is. Clients, Grafana among them,
// choose what they may ask for by it, so it is not Hearth's own version.
const apiVersion = "3.15.0"

// noOrigin matches no origin: a browser on another site may not read a
// tenant's data.
var noOrigin = regexp.MustCompile(`[^\s\S]`)

// apiParts is what Prometheus' API is made of, as far as we have it.
type apiParts struct {
	engine    promql.QueryEngine
	data      storage.SampleAndChunkQueryable
	exemplars storage.ExemplarQueryable
	targets   func(context.Context) v1.TargetRetriever // only a Prometheus has them
	buildInfo *v1.PrometheusVersion
	lookback  time.Duration
	parser    parser.Parser
	statusOf  v1.OverrideErrorCode
	logger    *slog.Logger
}

func (q *Querier) newAPI() http.Handler {
	var override v1.OverrideErrorCode = statusOf
	return mountAPI(apiParts{
		engine:    q.engine,
		data:      queryable{q},
		exemplars: queryable{q},
		buildInfo: q.buildInfo(),
		lookback:  time.Duration(q.cfg.LookbackDelta),
		parser:    q.parser,
		statusOf:  override,
		logger:    q.logger,
	})
}

// mountAPI makes Prometheus' API. Its constructor takes what all of Prometheus
// has; endpoints() lets nobody reach the handlers that would use what is nil
// here.
func mountAPI(p apiParts) http.Handler {
	readNow := func(h http.HandlerFunc) http.HandlerFunc { return h }
	noConfig := func() config.Config { return config.Config{} }
	api := v1.NewAPI(
		p.engine,
		p.data,
		nil, nil, // appenders
		p.exemplars,
		nil, p.targets, nil, // scrape pools, targets, Alertmanagers
		noConfig,
		nil, // flags
		v1.GlobalURLOptions{},
		readNow,
		nil, "", // TSDB admin, its folder
		false, false, 0, // admin API, search API and its limit
		p.logger,
		nil,     // rules
		0, 1, 0, // remote read, for which we have serveRead
		false, // agent
		noOrigin,
		nil, // runtime info
		p.buildInfo,
		nil, nil, // notifications
		nil, nil, // gatherer, registerer
		nil,        // stats as Prometheus renders them
		false, nil, // remote write
		false, false, false, // OTLP
		false, // start timestamps
		p.lookback,
		false, false, // type and unit labels, metadata
		p.statusOf,
		nil, // features
		v1.OpenAPIOptions{},
		p.parser,
	)
	r := route.New()
	api.Register(r)
	return r
}

// buildInfo is a plain Prometheus' answer.
func (q *Querier) buildInfo() *v1.PrometheusVersion {
	return &v1.PrometheusVersion{
		Version:   apiVersion,
		Revision:  q.cfg.Version,
		Branch:    "hearth",
		GoVersion: runtime.Version(),
	}
}

// serveBuildInfo is the answer where there is a ruler. Grafana offers to edit
// rules only where the application has this name and says so in features, which
// are strings.
func (q *Querier) serveBuildInfo(w http.ResponseWriter, _ *http.Request) {
	alerts := strconv.FormatBool(q.beside().Alerts)
	body, err := json.Marshal(v1.Response{Status: "success", Data: struct {
		*v1.PrometheusVersion
		Application string            `json:"application"`
		Features    map[string]string `json:"features"`
	}{q.buildInfo(), "Grafana Mimir", map[string]string{
		"ruler_config_api": "true", "alertmanager_config_api": alerts, "query_sharding": "false", "federated_rules": "true",
	}}})
	if err != nil {
		writeError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // the client has hung up: nobody to tell
}
