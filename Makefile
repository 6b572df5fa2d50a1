# Everything goes through the Go command. All builds and tests share their
# flags, because the build cache keeps a copy of each package per set of flags,
# and a cold build takes minutes.
export CGO_ENABLED := 0
export GOFLAGS     := -trimpath -buildvcs=false

VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
REVISION := $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
about    := github.com/prometheus/common/version
LDFLAGS  := -s -w -X $(about).Version=$(VERSION) -X $(about).Revision=$(REVISION)

TOOLS := $(CURDIR)/.cache

.DEFAULT_GOAL := help
.PHONY: help build run demo test e2e bench bench-cluster bench-neighbours bench-stored bench-requests bench-rules bench-alertmanagers lint fmt docs check-docs check-chart vet race tools clean

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

build: ## bin/hearth; the Go command knows what has changed
	go build -ldflags '$(LDFLAGS)' -o bin/hearth ./cmd/hearth

run: build ## build and start Hearth with all defaults, data in ./data
	./bin/hearth

demo: build $(TOOLS)/prometheus ## Hearth, and a real Prometheus that scrapes it and writes into it
	./deploy/demo/run

test: ## all tests that need nothing but Go
	go test -timeout 15m ./...

race: ## the same with the race detector; needs a C compiler
	CGO_ENABLED=1 go test -race -timeout 30m ./...

e2e: build tools ## the system from outside: real binaries, a real Prometheus
	HEARTH_BIN=$(CURDIR)/bin/hearth go test -tags e2e -timeout 40m -parallel 4 -count 1 ./e2e/...

bench: build ## load on Hearth, and what it costs; BENCH_FLAGS go to the load generator
	go build -o $(TOOLS)/bench ./bench
	$(TOOLS)/bench $(BENCH_FLAGS)

bench-cluster: build ## what a sample costs in a cluster that holds three copies, beside one process
	go build -o $(TOOLS)/bench ./bench
	$(TOOLS)/bench -only write,cluster $(BENCH_FLAGS)

bench-neighbours: build ## what a tenant notices of another one that is far above its limits
	go build -o $(TOOLS)/bench ./bench
	$(TOOLS)/bench -only neighbours $(BENCH_FLAGS)

bench-stored: ## queries of stored blocks beside Prometheus on the same blocks: 100,000 series for 30 days, one sample each five minutes, 10,000 pooled tenants
	go test ./storegateway -run '^$$' -bench Stored -benchtime 1x -timeout 60m -args -stored.series 100000 -stored.days 30 -stored.step 5m -stored.pooled 10000

bench-requests: ## what a cluster asks of the bucket in a day, by component; a larger day than the test's
	go test ./app -run RequestsOfADay -v -count 1 -timeout 60m -args -day.tenants 2000 -day.series 5

bench-rules: ## 5,000 tenants with three rules each in one process, for some minutes: CPU, memory, how late evaluations are
	go test ./app -run '^$$' -bench BenchmarkRules -benchtime 3x -timeout 30m

bench-alertmanagers: ## what an Alertmanager takes, for each of 2,000 tenants: asleep, and with an alert that fires
	go test ./alertmanager -run '^$$' -bench Tenants -benchtime 1x

lint: $(TOOLS)/golangci-lint ## style and likely mistakes; each rule has its reason in .golangci.yml
	$(TOOLS)/golangci-lint run ./...

fmt: $(TOOLS)/golangci-lint ## format the code
	$(TOOLS)/golangci-lint fmt ./...

vet:
	go vet -stdmethods=false ./... # chunkenc.Iterator has a Seek of its own

docs: ## write docs/config.md, docs/metrics.md and the list of routes anew
	go test ./app -run 'Document$$' -count 1 -args -update

check-docs: ## fail if a generated document is not current
	go test ./app -run 'Document$$' -count 1

check-chart: build ## render the Helm chart with Helm's engine, and hold it against Kubernetes' types and hearth
	cd tools/helm && HEARTH_BIN=$(CURDIR)/bin/hearth go test -count 1 ./...

tools: $(TOOLS)/prometheus $(TOOLS)/promtool $(TOOLS)/alertmanager $(TOOLS)/amtool ## the real Prometheus for demo and e2e, and an Alertmanager, in .cache

# Built from the module that Hearth links, without service discovery, which
# would be most of the build.
$(TOOLS)/prometheus $(TOOLS)/promtool: tools/prometheus/go.mod tools/prometheus/go.sum
	cd tools/prometheus && go build -ldflags '-s -w' -tags remove_all_sd -o $@ github.com/prometheus/prometheus/cmd/$(@F)

$(TOOLS)/alertmanager: tools/alertmanager/go.mod tools/alertmanager/go.sum
	cd tools/alertmanager && go build -ldflags '-s -w' -o $@ github.com/prometheus/alertmanager/cmd/alertmanager

# Its dependencies have the versions that Hearth's have where both have them, so
# that most of it is compiled already.
$(TOOLS)/amtool: tools/amtool/go.mod tools/amtool/go.sum
	cd tools/amtool && go build -ldflags '-s -w' -o $@ github.com/prometheus/alertmanager/cmd/amtool

$(TOOLS)/golangci-lint: tools/lint/go.mod tools/lint/go.sum
	cd tools/lint && go build -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

clean: ## remove what was built; ./data stays
	rm -rf bin .cache
