package main

import (
	"bytes"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/yaml"

	"helm.sh/helm/v4/pkg/chart/common"
)

const chartDir = "../../deploy/kubernetes/hearth"

// manifests is what a chart became, read as strictly as the types allow: a
// field that Kubernetes does not know is an error.
type manifests struct {
	config      string
	stateful    []appsv1.StatefulSet
	deployments []appsv1.Deployment
	services    []corev1.Service
	budgets     []policyv1.PodDisruptionBudget
	monitors    []serviceMonitor
	names       []string // kind/name
}

// serviceMonitor is as much of the Prometheus Operator's type as is used.
type serviceMonitor struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
	Spec              struct {
		Selector  metav1.LabelSelector `json:"selector"`
		Endpoints []struct {
			Port string `json:"port"`
		} `json:"endpoints"`
	} `json:"spec"`
}

// pod is the template of one workload.
type pod struct {
	workload string
	replicas int32
	selector *metav1.LabelSelector
	corev1.PodTemplateSpec
	claims []corev1.PersistentVolumeClaim
}

func (m *manifests) pods() (out []pod) {
	for _, s := range m.stateful {
		out = append(out, pod{s.Name, *s.Spec.Replicas, s.Spec.Selector, s.Spec.Template, s.Spec.VolumeClaimTemplates})
	}
	for _, d := range m.deployments {
		out = append(out, pod{d.Name, *d.Spec.Replicas, d.Spec.Selector, d.Spec.Template, nil})
	}
	return out
}

func parseValues(t *testing.T, text string) common.Values {
	t.Helper()
	v, err := common.ReadValues([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// load renders the chart and reads what comes out.
func load(t *testing.T, values string) *manifests {
	t.Helper()
	files, err := render(chartDir, "hearth", "metrics", parseValues(t, values))
	if err != nil {
		t.Fatal(err)
	}
	m := &manifests{}
	for name, text := range files {
		if path.Ext(name) != ".yaml" {
			continue
		}
		for doc := range strings.SplitSeq("\n"+text, "\n---") {
			m.add(t, name, doc)
		}
	}
	return m
}

func (m *manifests) add(t *testing.T, file, doc string) {
	t.Helper()
	var head struct {
		metav1.TypeMeta `json:",inline"`
		Metadata        metav1.ObjectMeta `json:"metadata"`
	}
	if err := yaml.Unmarshal([]byte(doc), &head); err != nil {
		t.Fatalf("%s: %v\n%s", file, err, doc)
	}
	switch head.APIVersion + " " + head.Kind {
	case " ":
		return // nothing but comments
	case "v1 ConfigMap":
		m.config = strict[corev1.ConfigMap](t, file, doc).Data["config.yaml"]
	case "v1 Service":
		m.services = append(m.services, strict[corev1.Service](t, file, doc))
	case "apps/v1 StatefulSet":
		m.stateful = append(m.stateful, strict[appsv1.StatefulSet](t, file, doc))
	case "apps/v1 Deployment":
		m.deployments = append(m.deployments, strict[appsv1.Deployment](t, file, doc))
	case "policy/v1 PodDisruptionBudget":
		m.budgets = append(m.budgets, strict[policyv1.PodDisruptionBudget](t, file, doc))
	case "monitoring.coreos.com/v1 ServiceMonitor":
		m.monitors = append(m.monitors, strict[serviceMonitor](t, file, doc))
	default:
		t.Fatalf("%s: nobody has thought about a %s of %s", file, head.Kind, head.APIVersion)
	}
	name := head.Kind + "/" + head.Metadata.Name
	if head.Metadata.Name == "" || len(head.Metadata.Name) > 63 || slices.Contains(m.names, name) {
		t.Errorf("%s: bad or repeated name %q", file, name)
	}
	m.names = append(m.names, name)
}

func strict[T any](t *testing.T, file, doc string) (out T) {
	t.Helper()
	if err := yaml.UnmarshalStrict([]byte(doc), &out); err != nil {
		t.Errorf("%s: %v\n%s", file, err, doc)
	}
	return out
}

// printConfig runs the real hearth with what a container is given.
func printConfig(t *testing.T, m *manifests, p pod) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(m.config), 0o600); err != nil {
		t.Fatal(err)
	}
	c := p.Spec.Containers[0]
	args := slices.Clone(c.Args)
	i := slices.Index(args, "/etc/hearth/config.yaml")
	if i < 0 {
		t.Fatalf("%s: no configuration in %v", p.workload, args)
	}
	args[i] = file
	cmd := exec.Command(hearth(t), append(args, "-print-config")...)
	for _, e := range c.Env {
		value := e.Value
		if e.ValueFrom != nil {
			value = map[string]string{"metadata.name": p.workload + "-0", "status.podIP": "10.1.2.3"}[e.ValueFrom.FieldRef.FieldPath]
		}
		cmd.Env = append(cmd.Env, e.Name+"="+value)
	}
	if len(c.EnvFrom) > 0 {
		cmd.Env = append(cmd.Env, "S3_ACCESS_KEY_ID=id", "S3_SECRET_ACCESS_KEY=secret", "CLUSTER_SECRET=0123456789abcdef")
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: hearth %v: %v\n%s\n%s", p.workload, args, err, stderr.String(), m.config)
	}
	return stdout.String()
}

func hearth(t *testing.T) string {
	t.Helper()
	bin := os.Getenv("HEARTH_BIN")
	if bin == "" {
		bin = "../../bin/hearth"
	}
	if _, err := os.Stat(bin); err != nil {
		t.Fatalf("no hearth to ask, run make check-chart: %v", err)
	}
	return bin
}

func selects(t *testing.T, s *metav1.LabelSelector, p pod) bool {
	t.Helper()
	sel, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		t.Fatal(err)
	}
	return !sel.Empty() && sel.Matches(labels.Set(p.Labels))
}
