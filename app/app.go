// Package app is the WHOLE: it puts the parts together into one process.
//
// In comes a Config (load.go reads it from a file, -set and the environment);
// out comes an App that listens, or an error that names the key to change.
// The parts do not know each other: what one needs of another is a small
// interface of its own, satisfied here. Promises: nothing is served before the
// part behind it runs, and at a stop the doors close before the rooms do, the
// ingester last. Start reading at New, then Start and Stop; http.go is
// the way every request takes first.
package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/gorilla/mux"
	"github.com/grafana/dskit/services"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	versioncollector "github.com/prometheus/client_golang/prometheus/collectors/version"
	"github.com/prometheus/common/version"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"

	"github.com/hearth-metrics/hearth/bucket"
	"github.com/hearth-metrics/hearth/compactor"
	"github.com/hearth-metrics/hearth/distributor"
	"github.com/hearth-metrics/hearth/importer"
	"github.com/hearth-metrics/hearth/ingester"
	"github.com/hearth-metrics/hearth/querier"
	"github.com/hearth-metrics/hearth/storegateway"
	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/tenant/meter"
	"github.com/hearth-metrics/hearth/transport"
)

// stopTimeout bounds how long the parts may take to stop once no request
// runs any more. It is mostly the ingester's last write to disk.
const stopTimeout = 2 * time.Minute

// part is a component with a life of its own.
type part struct {
	name string
	services.Service
}

// App is one Hearth process. New makes it, Start opens it, Stop closes it; each
// is called once.
type App struct {
	cfg     Config
	logger  *slog.Logger
	reg     registry
	metrics *metrics

	parts   []part // in the order of start; stopped in reverse
	failed  chan error
	routes  *mux.Router
	doors   doors
	http    *http.Server
	grpc    *grpc.Server
	health  *health.Server
	unlock  io.Closer
	phase   atomic.Int32
	httpLis net.Listener
	grpcLis net.Listener
	served  chan error // one value from each server when it returns

	transport *transport.Transport
	registry  *tenant.Registry
	auth      *tenant.Auth
	meter     *meter.Meter
	operators *mux.Router // where routes go that are for operators
}

// The phases of an App's life, in order.
const (
	starting int32 = iota
	running
	stopping
)

// registry is where metrics go in and come out.
type registry interface {
	prometheus.Registerer
	prometheus.Gatherer
}

// New builds all parts but starts none. It takes the data folder for itself,
// which Stop gives back; if it fails, nothing is left behind but the folder.
func New(cfg Config, logger *slog.Logger) (*App, error) {
	return newApp(cfg, logger, prometheus.NewRegistry())
}

func newApp(cfg Config, logger *slog.Logger, reg registry) (*App, error) {
	unlock, err := lockDataDir(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		versioncollector.NewCollector("hearth"),
	)
	a := &App{
		cfg: cfg, logger: logger, reg: reg,
		metrics: newMetrics(reg),
		unlock:  unlock,
		served:  make(chan error, 2),
	}
	if err := a.build(reg); err != nil {
		return nil, errors.Join(err, unlock.Close())
	}
	return a, nil
}

// build makes the parts and hands each what it needs of the others. It is the
// one place that knows them all, so it is a list, not an abstraction.
func (a *App) build(reg prometheus.Registerer) error {
	cfg, logger := a.cfg, a.logger
	var err error
	if a.transport, err = transport.New(cfg.Cluster, cfg.Server.HTTPTLS, logger, reg); err != nil {
		return err
	}
	b, err := bucket.New(cfg.Bucket, cfg.DataDir, logger, reg)
	if err != nil {
		return fmt.Errorf("open the bucket: %w", err)
	}
	if err := a.knowTenants(b); err != nil {
		return err
	}
	limits := a.registry.Limits
	a.routes = a.newRouter()
	a.http = a.newHTTPServer()
	a.grpc, a.health = newGRPCServer(a.transport)

	a.parts = append(a.parts, part{"bucket", services.NewBasicService(nil, a.lookAt(bucket.For(b, "start")), nil)})
	var ing *ingester.Ingester
	if cfg.runs(targetIngester) {
		if ing, err = ingester.New(cfg.Ingester, cfg.DataDir, bucket.For(b, targetIngester), limits, logger, reg); err != nil {
			return fmt.Errorf("build the ingester: %w", err)
		}
		ing.RegisterRoutes(a.operators)
	}
	if err := a.meterTenants(b, ing); err != nil {
		return err
	}
	peers, err := a.findPeers(b, ing)
	if err != nil {
		return err
	}
	var dist *distributor.Distributor
	if cfg.runs(targetDistributor) || cfg.runs(targetRuler) {
		dist, err = distributor.New(cfg.Distributor, peers.writes, peers.haStore, limits, logger, reg)
		if err != nil {
			return fmt.Errorf("build the distributor: %w", err)
		}
		if peers.distributors != nil {
			dist.ShareLimits(peers.distributors.Healthy)
		}
		dist.CountWith(a.meter)
		a.parts = append(a.parts, part{"distributor", dist})
	}
	if cfg.runs(targetDistributor) {
		dist.RegisterRoutes(a.doors.of(tenant.MetricsWrite))
		dist.RegisterOperatorRoutes(a.operators)
	}
	quer, err := a.buildReaders(b, peers)
	if err != nil {
		return err
	}
	if err := a.buildBackend(b, peers, dist, quer); err != nil {
		return err
	}
	if peers.membership != nil { // last: others send work when it runs
		a.parts = append(a.parts, part{"membership", peers.membership})
	}
	return nil
}

// buildBackend makes what works by itself: the compactor, with the importer of
// blocks that it will merge, the alertmanager, and the ruler, which tells that
// one what fires.
func (a *App) buildBackend(b bucket.Bucket, peers *peers, dist *distributor.Distributor, quer *querier.Querier) error {
	if a.cfg.runs(targetCompactor) {
		comp, err := compactor.New(a.cfg.Compactor, a.cfg.DataDir, bucket.For(b, targetCompactor), a.registry.Limits, a.logger, a.reg)
		if err != nil {
			return fmt.Errorf("build the compactor: %w", err)
		}
		if err := a.shareCompactions(peers, comp); err != nil {
			return err
		}
		comp.DeleteFor(forgetful{a.registry, b})
		a.meter.ObserveBlocks(comp.EachTenant)
		a.parts = append(a.parts, part{"compactor", comp})
		comp.RegisterRoutes(a.doors.of(tenant.Admin))
		imp := importer.New(a.cfg.DataDir, bucket.For(b, "importer"), a.registry.Limits, a.logger, a.reg)
		a.parts = append(a.parts, part{"importer", imp})
		imp.RegisterRoutes(a.doors.of(tenant.MetricsWrite))
	}
	place, member, err := a.placeAlertmanagers(peers)
	if err != nil {
		return err
	}
	if a.cfg.runs(targetAlertmanager) {
		if err := a.addAlertmanager(b, place, member); err != nil {
			return err
		}
	}
	if err := a.findRulers(peers); err != nil {
		return err
	}
	if quer != nil {
		quer.TellOf(a.beside(peers))
	}
	if a.cfg.runs(targetRuler) {
		return a.addRuler(b, peers, place, dist, quer)
	}
	return nil
}

// buildReaders makes the store gateway, and the querier, which asks it, or all
// gateways where there are others.
func (a *App) buildReaders(b bucket.Bucket, peers *peers) (*querier.Querier, error) {
	cfg, logger, limits := a.cfg, a.logger, a.registry.Limits
	var gateway *storegateway.Gateway
	var err error
	if cfg.runs(targetStoreGateway) {
		if gateway, err = storegateway.New(cfg.StoreGateway, cfg.DataDir, bucket.For(b, targetStoreGateway), limits, logger, a.reg); err != nil {
			return nil, fmt.Errorf("build the store gateway: %w", err)
		}
		a.parts = append(a.parts, part{"storegateway", gateway})
	}
	list := querier.NewCatalogue(cfg.Querier, bucket.For(b, targetQuerier), logger, a.reg)
	stored, err := a.findGateways(peers, gateway, list)
	if err != nil || (!cfg.runs(targetQuerier) && !cfg.runs(targetRuler)) {
		return nil, err
	}
	cfg.Querier.Version = version.Version
	quer, err := querier.New(cfg.Querier, peers.reads, stored, limits, logger, a.reg)
	if err != nil {
		return nil, fmt.Errorf("build the querier: %w", err)
	}
	quer.CountWith(a.meter)
	a.parts = append(a.parts, part{"catalogue", list}, part{"querier", quer})
	if cfg.runs(targetQuerier) {
		quer.RegisterRoutes(a.doors.of(tenant.MetricsRead))
	}
	return quer, nil
}

// lookAt asks the bucket for something at the start, so that one that is away,
// or wrongly named, is in the log before there is something to ship. Nothing
// waits for it: writes do not need the bucket.
func (a *App) lookAt(b bucket.Bucket) func(context.Context) error {
	return func(ctx context.Context) error {
		if _, err := b.Stat(ctx, bucket.PoolHome.Join("bucket-index.json.gz")); err != nil && !errors.Is(err, bucket.ErrNotFound) && ctx.Err() == nil {
			a.logger.Warn("bucket cannot be read; recent data is taken all the same, and goes there when it can", "err", err)
		}
		<-ctx.Done()
		return nil
	}
}

// Start listens, then starts the parts one after the other, and returns when
// requests are answered. While the ingester reads its WAL, /ready and /metrics
// answer already. If ctx ends or anything fails, all is stopped again.
func (a *App) Start(ctx context.Context) error {
	if err := a.start(ctx); err != nil {
		return errors.Join(err, a.Stop())
	}
	return nil
}

func (a *App) start(ctx context.Context) error {
	var lc net.ListenConfig
	var err error
	if a.httpLis, err = lc.Listen(ctx, "tcp", a.cfg.Server.HTTPListenAddress); err != nil {
		return fmt.Errorf("server.http_listen_address: %w", err)
	}
	if a.grpcLis, err = lc.Listen(ctx, "tcp", a.cfg.Server.GRPCListenAddress); err != nil {
		return fmt.Errorf("server.grpc_listen_address: %w", err)
	}
	a.warnIfTrusting()
	go func() { a.served <- a.serveHTTP() }()
	go func() { a.served <- a.grpc.Serve(a.grpcLis) }()

	// With room for all parts, so that none waits for somebody to listen.
	a.failed = make(chan error, len(a.parts))
	for _, p := range a.parts {
		began := time.Now()
		p.AddListener(services.NewListener(nil, nil, nil, nil, func(_ services.State, err error) {
			a.failed <- fmt.Errorf("%s: %w", p.name, err)
		}))
		// Not with ctx: a service stops when its context does, and the order
		// of stopping is Stop's to decide.
		if err := p.StartAsync(context.WithoutCancel(ctx)); err != nil {
			return fmt.Errorf("start the %s: %w", p.name, err)
		}
		if err := p.AwaitRunning(ctx); err != nil {
			return fmt.Errorf("start the %s: %w", p.name, err)
		}
		a.logger.Info("part started", "part", p.name, "dur", time.Since(began))
	}
	a.phase.Store(running)
	a.health.Resume()
	return nil
}

// Run starts the App, tells out how to use it, and serves until ctx ends or
// a part fails. It returns nil after a clean stop that ctx asked for.
func (a *App) Run(ctx context.Context, out io.Writer) error {
	if err := a.start(ctx); err != nil {
		if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			err = nil // asked to stop before all was started
		}
		return errors.Join(err, a.Stop())
	}
	a.welcome(out)

	var failure error
	select {
	case <-ctx.Done():
		a.logger.Info("stopping")
	case err := <-a.failed:
		failure = fmt.Errorf("a part stopped by itself: %w", err)
	case err := <-a.served:
		failure = fmt.Errorf("serve: %w", err)
		a.served <- nil // Stop waits for both servers
	}
	return errors.Join(failure, a.Stop())
}

// Stop closes the doors, waits a bounded time for the requests inside, then
// stops the parts, the ingester last. After it the data folder is free.
func (a *App) Stop() error {
	a.phase.Store(stopping)
	a.health.Shutdown()
	errs := []error{a.stopServing()}

	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	for _, p := range slices.Backward(a.parts) {
		if p.State() == services.Failed { // whoever saw it fail has the reason
			continue
		}
		began := time.Now()
		if err := services.StopAndAwaitTerminated(ctx, p); err != nil {
			errs = append(errs, fmt.Errorf("stop the %s: %w", p.name, err))
			continue
		}
		a.logger.Info("part stopped", "part", p.name, "dur", time.Since(began))
	}
	return errors.Join(append(errs, a.unlock.Close())...)
}

// stopServing lets running requests finish for as long as the configuration
// allows and then cuts their connections.
func (a *App) stopServing() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(a.cfg.Server.ShutdownTimeout))
	defer cancel()

	var err error
	if a.httpLis != nil {
		if err = a.http.Shutdown(ctx); err != nil {
			err = fmt.Errorf("requests were cut after %s: %w", a.cfg.Server.ShutdownTimeout, errors.Join(err, a.http.Close()))
		}
	}
	if a.grpcLis == nil {
		if a.httpLis != nil { // the second listen failed: nothing was served
			err = errors.Join(err, a.httpLis.Close())
		}
		return err
	}
	cut := context.AfterFunc(ctx, a.grpc.Stop)
	a.grpc.GracefulStop()
	cut()
	for range 2 {
		if serveErr := <-a.served; serveErr != nil && !errors.Is(serveErr, http.ErrServerClosed) && !errors.Is(serveErr, grpc.ErrServerStopped) {
			err = errors.Join(err, serveErr)
		}
	}
	return err
}

// Addr is the address that HTTP is served on, for example "127.0.0.1:9009".
// Valid after Start.
func (a *App) Addr() string { return a.httpLis.Addr().String() }

// GRPCAddr is the address that gRPC is served on. Valid after Start.
func (a *App) GRPCAddr() string { return a.grpcLis.Addr().String() }

// unready says why requests cannot be answered now, "" if they can.
func (a *App) unready() string {
	switch a.phase.Load() {
	case starting:
		for _, p := range a.parts {
			if s := p.State(); s != services.Running {
				if w, ok := p.Service.(interface{ WaitsFor() string }); ok && w.WaitsFor() != "" {
					return fmt.Sprintf("starting: %s waits: %s", p.name, w.WaitsFor())
				}
				return fmt.Sprintf("starting: %s is %s", p.name, s)
			}
		}
		return "starting"
	case stopping:
		return "stopping"
	default:
		return ""
	}
}

// welcome says in a few lines where to write, where to query and what to open.
func (a *App) welcome(out io.Writer) {
	base := a.scheme() + "://" + reachable(a.Addr())
	_, err := fmt.Fprintf(out, `Hearth is ready.
  write   %[1]s/api/v1/push      remote_write of Prometheus, Alloy, the OpenTelemetry collector
  query   %[1]s/prometheus       a Prometheus data source in Grafana, promtool
  open    %[1]s/                 what else there is: metrics, configuration, profiles
%[2]s Stop with Ctrl-C.
`, base, a.howToSay())
	if err != nil {
		a.logger.Warn("welcome not written", "err", err)
	}
}

// reachable turns the address listened on into one that a client on this
// machine can use.
func reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}
