package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// seriesPerPod is how many series one pod of the imagined cluster has. The
// first 50 are a small service of their own: runtime, container and one
// histogram, so a tenant of 50 series is a mix as well.
const seriesPerPod = 100

// label is one name and value of a series.
type label struct{ name, value string }

// series is one time series of the load: its labels, sorted by name, and the
// curve its values follow.
type series struct {
	labels []label
	curve  curve
}

// name is the series' metric name. "__name__" sorts before the lower-case
// labels, so it is the first one.
func (s *series) name() string { return s.labels[0].value }

var (
	apps       = []string{"checkout", "catalog", "payments", "inventory", "frontend", "recommendation", "shipping", "accounts", "search", "notifications"}
	namespaces = []string{"team-commerce-prod", "team-payments-prod", "team-platform-prod", "team-growth-staging"}
	paths      = []string{"/api/v1/orders", "/api/v1/products/{id}", "/api/v1/customers/{id}/basket", "/healthz"}
	bounds     = []string{"0.005", "0.01", "0.025", "0.05", "0.1", "0.25", "0.5", "1", "2.5", "5", "10", "+Inf"}
	// shares is the part of all requests that took at most the bound.
	shares = []float64{0.04, 0.11, 0.3, 0.52, 0.71, 0.88, 0.952, 0.981, 0.993, 0.998, 0.9995, 1}
)

// pod is where a group of series comes from. Everything about it follows from
// the tenant's number and its own, so a load can be made again.
type pod struct {
	app, namespace, cluster string
	name, node, instance    string
	uid                     string
	slot                    int     // its place on the node, 0 to 9
	still                   float64 // how often its counters do not move
	rng                     rng
}

func newPod(tenant, n int) *pod {
	r := newRNG(uint64(tenant)<<32 | uint64(n))
	app := apps[n%len(apps)]
	p := &pod{
		app:       app,
		namespace: namespaces[(n+n/len(apps))%len(namespaces)],
		cluster:   "prod-eu-central-" + strconv.Itoa(1+tenant%9),
		name:      fmt.Sprintf("%s-%s-%s", app, hash(&r, 10), hash(&r, 5)),
		node:      fmt.Sprintf("worker-%d-%03d.example.internal", tenant, n/10),
		instance:  fmt.Sprintf("10.%d.%d.%d:8080", tenant%256, n/250%256, 2+n%250),
		uid:       hash(&r, 8) + "-" + hash(&r, 4) + "-" + hash(&r, 12),
		slot:      n % 10,
	}
	if r.intn(2) == 0 {
		p.still = 0.7 // as in life, half of all pods have little to do
	}
	p.rng = r
	return p
}

// series lists all series of the pod, seriesPerPod of them.
func (p *pod) series() []series {
	out := make([]series, 0, seriesPerPod)
	out = p.container(out)
	out = p.kube(out)
	out = p.runtime(out)
	for i := range paths {
		out = p.requests(out, i)
	}
	return p.nodeCPU(out)
}

// container are 10 series as cAdvisor shows them.
func (p *pod) container(out []series) []series {
	add := func(metric string, c curve) {
		out = append(out, newSeries(metric, c,
			"cluster", p.cluster, "container", p.app,
			"id", "/kubepods.slice/kubepods-burstable.slice/pod"+p.uid,
			"image", "images.example.com/"+p.app+":v1.42.0",
			"instance", p.node, "job", "kubelet",
			"namespace", p.namespace, "node", p.node, "pod", p.name))
	}
	add("container_cpu_usage_seconds_total", p.seconds(2.5))
	add("container_cpu_user_seconds_total", p.seconds(2))
	add("container_cpu_cfs_throttled_periods_total", p.counter(0))
	add("container_memory_working_set_bytes", p.pages(200<<20))
	add("container_memory_rss", p.pages(180<<20))
	add("container_memory_cache", p.pages(20<<20))
	add("container_fs_writes_bytes_total", p.counter(4096))
	add("container_network_receive_bytes_total", p.counter(250_000))
	add("container_network_transmit_bytes_total", p.counter(400_000))
	add("container_spec_memory_limit_bytes", constant(512<<20))
	return out
}

// kube are 10 series as kube-state-metrics shows them. Most never change.
func (p *pod) kube(out []series) []series {
	add := func(metric, name, value string, v float64) {
		out = append(out, newSeries(metric, constant(v),
			"cluster", p.cluster, "container", p.app, "instance", "10.0.3.17:8080",
			"job", "kube-state-metrics", "namespace", p.namespace, "node", p.node,
			name, value, "pod", p.name, "uid", p.uid))
	}
	add("kube_pod_info", "created_by_kind", "ReplicaSet", 1)
	for _, phase := range []string{"Failed", "Pending", "Running", "Succeeded", "Unknown"} {
		running := 0.0
		if phase == "Running" {
			running = 1
		}
		add("kube_pod_status_phase", "phase", phase, running)
	}
	add("kube_pod_container_resource_requests", "resource", "cpu", 0.5)
	add("kube_pod_container_resource_requests", "resource", "memory", 256<<20)
	add("kube_pod_container_status_restarts_total", "reason", "none", 0)
	add("kube_pod_start_time", "host_network", "false", 1.7e9+float64(p.rng.intn(1e6)))
	return out
}

// runtime are 16 series that the pod shows about itself.
func (p *pod) runtime(out []series) []series {
	add := func(metric string, c curve) {
		out = append(out, newSeries(metric, c,
			"app", p.app, "cluster", p.cluster, "container", p.app,
			"instance", p.instance, "job", "kubernetes-pods/"+p.app,
			"namespace", p.namespace, "node", p.node, "pod", p.name))
	}
	add("up", constant(1))
	add("go_goroutines", p.level(120))
	add("go_threads", p.level(14))
	add("go_gc_duration_seconds_count", p.counter(1))
	add("go_memstats_alloc_bytes", p.pages(60<<20))
	add("go_memstats_alloc_bytes_total", p.counter(9_000_000))
	add("go_memstats_heap_inuse_bytes", p.pages(80<<20))
	add("go_memstats_heap_objects", p.level(300_000))
	add("go_memstats_mallocs_total", p.counter(90_000))
	add("go_memstats_next_gc_bytes", p.pages(110<<20))
	add("process_cpu_seconds_total", p.seconds(2))
	add("process_max_fds", constant(1<<20))
	add("process_open_fds", p.level(40))
	add("process_resident_memory_bytes", p.pages(190<<20))
	add("process_start_time_seconds", constant(1.7e9+float64(p.rng.intn(1e6))))
	add("scrape_duration_seconds", p.fraction(0.02))
	return out
}

// requests are the 14 series of one path's latency histogram. All draw the
// same stream of increments, so the buckets agree with each other and with
// the count.
func (p *pod) requests(out []series, path int) []series {
	add := func(metric string, c curve, le ...string) {
		out = append(out, newSeries(metric, c, append(le,
			"app", p.app, "cluster", p.cluster, "container", p.app,
			"instance", p.instance, "job", "kubernetes-pods/"+p.app,
			"namespace", p.namespace, "path", paths[path], "pod", p.name)...))
	}
	total := p.counter([]float64{400, 150, 30, 1}[path])
	if path < 3 && p.rng.intn(3) == 0 {
		total.step = 0 // a path that nobody uses
	}
	for i, le := range bounds {
		c := total
		c.kind, c.share = bucketCurve, shares[i]
		add("http_request_duration_seconds_bucket", c, "le", le)
	}
	add("http_request_duration_seconds_count", total)
	add("http_request_duration_seconds_sum", p.seconds(total.step*0.08))
	return out
}

// nodeCPU are 8 series of the node the pod runs on: one CPU's modes.
func (p *pod) nodeCPU(out []series) []series {
	for _, mode := range []string{"idle", "iowait", "irq", "nice", "softirq", "steal", "system", "user"} {
		c := p.seconds(map[string]float64{"idle": 11, "system": 1, "user": 2.5, "iowait": 0.1, "softirq": 0.1}[mode])
		out = append(out, newSeries("node_cpu_seconds_total", c,
			"cluster", p.cluster, "container", "node-exporter", "cpu", strconv.Itoa(p.slot),
			"instance", p.node+":9100", "job", "node-exporter", "mode", mode,
			"namespace", "monitoring", "node", p.node, "pod", "node-exporter-"+p.node[:12]))
	}
	return out
}

// newSeries takes the labels as name, value, name, value, in any order.
func newSeries(metric string, c curve, pairs ...string) series {
	ls := make([]label, 0, 1+len(pairs)/2)
	ls = append(ls, label{"__name__", metric})
	for i := 0; i < len(pairs); i += 2 {
		ls = append(ls, label{pairs[i], pairs[i+1]})
	}
	slices.SortFunc(ls, func(a, b label) int { return strings.Compare(a.name, b.name) })
	return series{labels: ls, curve: c}
}

// population returns the series numbered from (inclusive) to to (exclusive)
// of a tenant.
func population(tenant, from, to int) []series {
	first, last := from/seriesPerPod, (to-1)/seriesPerPod
	all := make([]series, 0, (last-first+1)*seriesPerPod)
	for n := first; n <= last; n++ {
		all = append(all, newPod(tenant, n).series()...)
	}
	return all[from-first*seriesPerPod : to-first*seriesPerPod]
}
