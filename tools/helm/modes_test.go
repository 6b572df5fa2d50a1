package main

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

const s3 = `
config:
  bucket: {s3: {endpoint: s3.example.com, bucket: metrics}}
`

const full = `
image: {repository: registry.example.com/hearth, tag: v1}
zones:
  - {name: a, nodeSelector: {topology.kubernetes.io/zone: eu-1a}}
  - {name: b, nodeSelector: {topology.kubernetes.io/zone: eu-1b}}
  - {name: c, nodeSelector: {topology.kubernetes.io/zone: eu-1c}}
replicasPerZone: 2
secretName: hearth
serviceAccountName: hearth
storage: {className: fast}
serviceMonitor: {enabled: true, labels: {release: prometheus}}
config:
  bucket: {s3: {endpoint: s3.example.com, bucket: metrics, access_key_id: "${S3_ACCESS_KEY_ID}", secret_access_key: "${S3_SECRET_ACCESS_KEY}"}}
  cluster: {secret: "${CLUSTER_SECRET}"}
  limits: {defaults: {max_series: 5}}
`

// kinds is what runs in each mode, and who is behind which service.
var kinds = map[string]struct{ stateful, stateless, push, query string }{
	"single":        {"all", "", "all", "all"},
	"readwrite":     {"write", "backend read", "write", "read"},
	"microservices": {"ingester", "distributor querier storegateway", "distributor", "querier"},
}

func TestChart(t *testing.T) {
	for mode, want := range kinds {
		for name, values := range map[string]string{"small": s3, "full": full} {
			t.Run(mode+" "+name, func(t *testing.T) {
				t.Parallel()
				m := load(t, "mode: "+mode+values)
				var stateless []string
				for _, d := range m.deployments {
					stateless = append(stateless, d.Labels["app.kubernetes.io/component"])
				}
				slices.Sort(stateless)
				if got := strings.Join(stateless, " "); got != want.stateless {
					t.Errorf("deployments of %q, want %q", got, want.stateless)
				}
				checkZones(t, m, want.stateful)
				checkServices(t, m, want.push, want.query)
				checkBudgets(t, m)
				for _, p := range m.pods() {
					checkPod(t, m, p)
					checkConfig(t, m, p)
				}
				if (len(m.monitors) == 1) != (name == "full") {
					t.Errorf("%d service monitors", len(m.monitors))
				}
			})
		}
	}
}

// checkZones wants one StatefulSet for each zone, that cannot meet another
// zone's pods on a node, and is not replaced without being asked.
func checkZones(t *testing.T, m *manifests, kind string) {
	t.Helper()
	zones := map[string]bool{}
	for _, s := range m.stateful {
		zone := s.Labels["hearth/zone"]
		zones[zone] = true
		if s.Name != "hearth-"+kind+"-"+zone || s.Spec.PodManagementPolicy != "Parallel" || s.Spec.UpdateStrategy.Type != "OnDelete" {
			t.Errorf("%s: %s %s", s.Name, s.Spec.PodManagementPolicy, s.Spec.UpdateStrategy.Type)
		}
		spec := s.Spec.Template.Spec
		apart := spec.NodeSelector["topology.kubernetes.io/zone"] == "eu-1"+zone
		if !apart && spec.Affinity != nil {
			terms := spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
			for _, other := range m.stateful {
				apart = other.Name != s.Name && selects(t, terms[0].LabelSelector, pod{PodTemplateSpec: other.Spec.Template})
				if other.Name != s.Name && !apart {
					break
				}
				apart = true
			}
			apart = apart && !selects(t, terms[0].LabelSelector, pod{PodTemplateSpec: s.Spec.Template})
		}
		if !apart {
			t.Errorf("%s can share a node with another zone", s.Name)
		}
		if !slices.ContainsFunc(m.services, func(v corev1.Service) bool { return v.Name == s.Spec.ServiceName && v.Spec.ClusterIP == "None" }) {
			t.Errorf("%s: no headless service %s", s.Name, s.Spec.ServiceName)
		}
	}
	if got := slices.Sorted(maps.Keys(zones)); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("zones %v", got)
	}
}

// checkServices wants the gossip to reach every pod, and each door those who
// are behind it.
func checkServices(t *testing.T, m *manifests, push, query string) {
	t.Helper()
	behind := map[string]string{"hearth-push": push, "hearth-query": query, "hearth-members": ""}
	if len(m.services) != len(behind) {
		t.Errorf("%d services, want %d", len(m.services), len(behind))
	}
	for _, s := range m.services {
		kind, ok := behind[s.Name]
		if !ok {
			t.Errorf("service %s", s.Name)
		}
		for _, p := range m.pods() {
			selected := selects(t, &metav1.LabelSelector{MatchLabels: s.Spec.Selector}, p)
			if want := kind == "" || p.Labels["app.kubernetes.io/component"] == kind; selected != want {
				t.Errorf("service %s selects %s: %v, want %v", s.Name, p.workload, selected, want)
			}
			checkServicePorts(t, s, p)
		}
		if kind == "" && !s.Spec.PublishNotReadyAddresses {
			t.Errorf("service %s hides those that start", s.Name)
		}
	}
	for _, mon := range m.monitors {
		n := slices.IndexFunc(m.services, func(s corev1.Service) bool {
			return selects(t, &mon.Spec.Selector, pod{PodTemplateSpec: corev1.PodTemplateSpec{ObjectMeta: s.ObjectMeta}})
		})
		if n < 0 || m.services[n].Name != "hearth-members" || mon.Spec.Endpoints[0].Port != "http" {
			t.Errorf("monitor %+v finds nothing to scrape", mon.Spec)
		}
	}
}

func checkServicePorts(t *testing.T, s corev1.Service, p pod) {
	t.Helper()
	for _, port := range s.Spec.Ports {
		if !slices.ContainsFunc(p.Spec.Containers[0].Ports, func(c corev1.ContainerPort) bool {
			return c.Name == port.TargetPort.StrVal && c.ContainerPort == port.Port
		}) {
			t.Errorf("service %s: %s has no port %s %d", s.Name, p.workload, port.TargetPort.StrVal, port.Port)
		}
	}
}

// checkBudgets wants each pod in one budget, and all zones' in the same one.
func checkBudgets(t *testing.T, m *manifests) {
	t.Helper()
	for _, p := range m.pods() {
		var in []string
		for _, b := range m.budgets {
			if selects(t, b.Spec.Selector, p) {
				in = append(in, b.Name)
			}
			if b.Spec.MaxUnavailable == nil || b.Spec.MaxUnavailable.IntValue() != 1 {
				t.Errorf("budget %s: %v", b.Name, b.Spec.MaxUnavailable)
			}
		}
		if want := "hearth-" + p.Labels["app.kubernetes.io/component"]; len(in) != 1 || in[0] != want {
			t.Errorf("%s is in budgets %v, want %s", p.workload, in, want)
		}
	}
}

func checkPod(t *testing.T, m *manifests, p pod) {
	t.Helper()
	if !selects(t, p.selector, p) {
		t.Errorf("%s does not select its own pods", p.workload)
	}
	for _, other := range m.pods() {
		if other.workload != p.workload && selects(t, p.selector, other) {
			t.Errorf("%s selects the pods of %s", p.workload, other.workload)
		}
	}
	for _, c := range p.Spec.TopologySpreadConstraints {
		if !selects(t, c.LabelSelector, p) {
			t.Errorf("%s is not spread", p.workload)
		}
	}
	c := p.Spec.Containers[0]
	if sc := c.SecurityContext; *sc.AllowPrivilegeEscalation || !*sc.ReadOnlyRootFilesystem || !*p.Spec.SecurityContext.RunAsNonRoot {
		t.Errorf("%s may do too much", p.workload)
	}
	if *p.Spec.TerminationGracePeriodSeconds < 5+30+120 {
		t.Errorf("%s is killed after %d s", p.workload, *p.Spec.TerminationGracePeriodSeconds)
	}
	for what, probe := range map[string]*corev1.Probe{"/-/healthy": c.LivenessProbe, "/ready": c.ReadinessProbe} {
		if probe == nil || probe.HTTPGet.Path != what || probe.HTTPGet.Port.StrVal != "http" {
			t.Errorf("%s: probe %s is %+v", p.workload, what, probe)
		}
	}
	checkVolumes(t, p)
}

// checkVolumes wants each mount to have a volume, and each volume a mount.
func checkVolumes(t *testing.T, p pod) {
	t.Helper()
	var have, used []string
	for _, v := range p.Spec.Volumes {
		have = append(have, v.Name)
		if v.ConfigMap != nil && v.ConfigMap.Name != "hearth" {
			t.Errorf("%s: config map %s", p.workload, v.ConfigMap.Name)
		}
	}
	for _, v := range p.claims {
		have = append(have, v.Name)
	}
	for _, v := range p.Spec.Containers[0].VolumeMounts {
		used = append(used, v.Name)
	}
	slices.Sort(have)
	slices.Sort(used)
	if !slices.Equal(have, used) {
		t.Errorf("%s has volumes %v and mounts %v", p.workload, have, used)
	}
}

// checkConfig asks hearth what it makes of the container's flags and files, and
// holds that against the manifests.
func checkConfig(t *testing.T, m *manifests, p pod) {
	t.Helper()
	var cfg struct {
		Target  string
		DataDir string `json:"data_dir"`
		Server  struct {
			HTTP string `json:"http_listen_address"`
			GRPC string `json:"grpc_listen_address"`
		}
		Instance struct {
			ID, Zone string
			Addr     string `json:"advertise_address"`
		}
		Memberlist struct {
			Port int `json:"bind_port"`
			Join string
		}
	}
	if err := yaml.Unmarshal([]byte(printConfig(t, m, p)), &cfg); err != nil {
		t.Fatal(err)
	}
	if want := p.Labels["app.kubernetes.io/component"]; cfg.Target != want {
		t.Errorf("%s runs %s, want %s", p.workload, cfg.Target, want)
	}
	zone := p.Labels["hearth/zone"]
	if zone == "" {
		zone = "none"
	}
	if i := cfg.Instance; i.ID != p.workload+"-0" || i.Zone != zone || i.Addr != "10.1.2.3" {
		t.Errorf("%s is %+v", p.workload, i)
	}
	mounts := p.Spec.Containers[0].VolumeMounts
	if !slices.ContainsFunc(mounts, func(v corev1.VolumeMount) bool { return v.MountPath == cfg.DataDir && !v.ReadOnly }) {
		t.Errorf("%s: nothing is mounted on %s", p.workload, cfg.DataDir)
	}
	listens := map[string]string{"http": cfg.Server.HTTP, "grpc": cfg.Server.GRPC, "gossip": fmt.Sprintf(":%d", cfg.Memberlist.Port)}
	for _, c := range p.Spec.Containers[0].Ports {
		if host, port, err := net.SplitHostPort(listens[c.Name]); err != nil || host != "" || port != fmt.Sprint(c.ContainerPort) {
			t.Errorf("%s: port %s is %d, hearth listens on %s", p.workload, c.Name, c.ContainerPort, listens[c.Name])
		}
	}
	if want := fmt.Sprintf("dns+hearth-members.metrics.svc:%d", cfg.Memberlist.Port); cfg.Memberlist.Join != want {
		t.Errorf("%s joins %s, want %s", p.workload, cfg.Memberlist.Join, want)
	}
}

// What cannot work is said when the chart is rendered.
func TestChartRefuses(t *testing.T) {
	t.Parallel()
	for values, want := range map[string]string{
		"":                                   "set endpoint and bucket",
		"mode: triple" + s3:                  "mode",
		"replicasPerZones: 2" + s3:           "replicasPerZones",
		"zones: [{name: a}, {name: b}]" + s3: "3 copies of each series need as many zones",
		"zones: [{name: a}, {name: a}, {name: b}, {name: c}]" + s3: "each name may be there once",
		"zones: [{name: A}]" + s3:                                  "zones/0/name",
		"config: {bucket: {type: filesystem}}":                     "use type s3",
		"config: {target: all}":                                    "config",
	} {
		if _, err := render(chartDir, "hearth", "metrics", parseValues(t, values)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("values %q: want an error with %q, got %v", values, want, err)
		}
	}
}

// One pod with a folder is a cluster too, for trying it out.
func TestChartOfOnePod(t *testing.T) {
	t.Parallel()
	m := load(t, `
zones: [{name: a}]
config: {bucket: {type: filesystem}, ring: {replication_factor: 1}}
`)
	if len(m.stateful) != 1 || *m.stateful[0].Spec.Replicas != 1 {
		t.Fatalf("%d StatefulSets", len(m.stateful))
	}
	checkConfig(t, m, m.pods()[0])
}

func TestNotesNameWhatIsThere(t *testing.T) {
	t.Parallel()
	files, err := render(chartDir, "hearth", "metrics", parseValues(t, s3))
	if err != nil {
		t.Fatal(err)
	}
	notes := files["hearth/templates/NOTES.txt"]
	for _, want := range []string{"http://hearth-push.metrics:9009/api/v1/push", "http://hearth-query.metrics:9009/prometheus", "for zone in a b c; do", "component=all,hearth/zone=$zone", "statefulset/hearth-all-$zone"} {
		if !strings.Contains(notes, want) {
			t.Errorf("the notes lack %q:\n%s", want, notes)
		}
	}
}
