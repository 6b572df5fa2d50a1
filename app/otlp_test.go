package app

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/metric"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"

	"github.com/hearth-metrics/hearth/tenant/admin"
)

// What OpenTelemetry's own exporter sends to the endpoint of a new tenant can
// be queried; deltas are refused with a reason.
func TestOpenTelemetryExports(t *testing.T) {
	a, operator := tokenApp(t)
	var made admin.Created
	operator.must(http.StatusCreated, http.MethodPost, "/admin/v1/tenants", `{"id":"acme"}`, &made)
	export := func(token string, more ...otlpmetrichttp.Option) error {
		e, err := otlpmetrichttp.New(t.Context(), append([]otlpmetrichttp.Option{
			otlpmetrichttp.WithEndpointURL(made.Endpoints.OTLP), otlpmetrichttp.WithCompression(otlpmetrichttp.GzipCompression),
			otlpmetrichttp.WithHeaders(map[string]string{"Authorization": "Bearer " + token}),
			otlpmetrichttp.WithRetry(otlpmetrichttp.RetryConfig{Enabled: false}),
			otlpmetrichttp.WithHTTPClient(&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}),
		}, more...)...)
		require.NoError(t, err)
		reader := sdk.NewPeriodicReader(e)
		p := sdk.NewMeterProvider(sdk.WithReader(reader), sdk.WithResource(resource.NewSchemaless(attribute.String("service.name", "shop"), attribute.String("deployment.environment", "prod"))),
			sdk.WithView(sdk.NewView(sdk.Instrument{Name: "size"}, sdk.Stream{Aggregation: sdk.AggregationBase2ExponentialHistogram{MaxSize: 160, MaxScale: 20}})))
		defer p.Shutdown(context.WithoutCancel(t.Context())) // it exports once more
		m := p.Meter("test")
		orders, err := m.Int64Counter("orders")
		require.NoError(t, err)
		orders.Add(t.Context(), 3, metric.WithAttributes(attribute.String("shop.kind", "books")))
		for _, name := range []string{"duration", "size"} {
			h, err := m.Float64Histogram(name, metric.WithUnit("s"))
			require.NoError(t, err)
			h.Record(t.Context(), 0.3)
		}
		return p.ForceFlush(t.Context())
	}
	require.NoError(t, export(made.Token.Secret))
	c := client{t: t, app: a, token: made.Token.Secret}
	for query, want := range map[string]string{
		`orders_total{shop_kind="books",job="shop"}`:                   `"3"`,
		`duration_seconds_count`:                                       `"1"`,
		`duration_seconds_bucket{le="5"}`:                              `"1"`,
		`histogram_quantile(1,size_seconds)>0.2`:                       `"value"`,
		`count(target_info{job="shop",deployment_environment="prod"})`: `"1"`,
	} {
		status, _, text := c.do(http.MethodGet, "/prometheus/api/v1/query?query="+strings.ReplaceAll(query, "\"", "%22"), "")
		require.Equal(t, http.StatusOK, status)
		require.Contains(t, text, want, query)
	}
	_, _, text := c.do(http.MethodGet, "/prometheus/api/v1/metadata?metric=duration_seconds", "")
	require.Contains(t, text, `"type":"histogram"`)

	var reader admin.SecretToken
	operator.must(http.StatusCreated, http.MethodPost, "/admin/v1/tokens", `{"tenant":"acme","scopes":["metrics:read"]}`, &reader)
	require.ErrorContains(t, export(reader.Secret), "403")
	deltas := otlpmetrichttp.WithTemporalitySelector(func(sdk.InstrumentKind) metricdata.Temporality { return metricdata.DeltaTemporality })
	require.ErrorContains(t, export(made.Token.Secret, deltas), "err-otlp-delta")
}
