package distributor

import (
	"cmp"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// haCheck deduplicates one request. Prometheus puts its external labels on
// every series, so all that it sends at once is of one replica; but a proxy may
// put requests together, so every series is looked at, and the tracker is asked
// once for each replica.
type haCheck struct {
	tracker *haTracker
	id      tenant.ID
	limits  *tenant.Limits
	r       *wire.Request

	clusterLabel, replicaLabel string

	groups  []haGroup
	last    int          // index of the group of the series before
	dropped int          // samples of replicas that are not elected
	only    *heldRequest // if not nil, everything but this one's replica is left out

	stripped bool // some series is stored without its replica label,
	kept     bool // some with it, for it has no cluster label
}

// haGroup is what a request has of one replica.
type haGroup struct {
	cluster, replica string
	verdict          haVerdict
}

// maxHAName is how long the name of a cluster or a replica may be, in bytes. It
// is kept, and told to all distributors.
const maxHAName = 1024

// maxHAGroups is how many replicas of a request are remembered, so that a
// request of nothing but replicas takes no time that grows with its square.
const maxHAGroups = 64

func newHACheck(t *haTracker, id tenant.ID, l *tenant.Limits, r *wire.Request) *haCheck {
	return &haCheck{
		tracker: t, id: id, limits: l, r: r,
		clusterLabel: cmp.Or(l.HAClusterLabel, "cluster"),
		replicaLabel: cmp.Or(l.HAReplicaLabel, "__replica__"),
	}
}

// series says what becomes of a series, and which labels it then has. One that
// lacks a label of the two is of no pair, and stays as it is. So does one that
// has labels that it cannot have: others will refuse it.
func (c *haCheck) series(s *wire.Series, ls []wire.Label) ([]wire.Label, haVerdict) {
	var cluster, replica string
	for i := range ls {
		switch ls[i].Name {
		case c.clusterLabel:
			cluster = ls[i].Value
		case c.replicaLabel:
			replica = ls[i].Value
		}
	}
	switch {
	case cluster != "" && replica != "" && s.ValidUTF8 && max(len(cluster), len(replica)) <= maxHAName:
	case c.only != nil:
		return ls, haDropped
	default:
		c.kept = c.kept || replica != ""
		return ls, haStored
	}
	g := c.group(cluster, replica)
	switch g.verdict {
	case haStored:
		c.stripped = true
		return c.r.LeaveOut(s, c.replicaLabel), haStored
	case haDropped:
		c.dropped += s.Samples.Len() + s.Histograms.Len()
	}
	return ls, g.verdict
}

// finish is called when all series have been seen.
func (c *haCheck) finish() {
	// The label cannot be left out of all, as Without would say.
	c.r.Altered = c.r.Altered || c.stripped && c.kept
}

func (c *haCheck) group(cluster, replica string) *haGroup {
	if c.last < len(c.groups) && c.groups[c.last].is(cluster, replica) {
		return &c.groups[c.last]
	}
	for i := range c.groups {
		if c.groups[i].is(cluster, replica) {
			c.last = i
			return &c.groups[i]
		}
	}
	if len(c.groups) < maxHAGroups {
		c.groups = append(c.groups, haGroup{})
	}
	c.last = len(c.groups) - 1
	c.groups[c.last] = haGroup{cluster, replica, c.ask(cluster, replica)}
	return &c.groups[c.last]
}

func (g *haGroup) is(cluster, replica string) bool {
	return g.replica == replica && g.cluster == cluster
}

func (c *haCheck) ask(cluster, replica string) haVerdict {
	switch {
	case c.only == nil:
		return c.tracker.decide(c.id, c.limits, cluster, replica)
	case c.only.key.cluster == cluster && c.only.replica == replica:
		return haStored
	default:
		return haDropped
	}
}

// refusal explains haTooMany. The series' cluster is the last group's.
func (c *haCheck) refusal(ls []wire.Label) *wire.UserError {
	return wire.Errorf(wire.Invalid, "err-too-many-ha-clusters", "the tenant has pairs of Prometheus with %d values of the label %s already, which is the limit (limit max_ha_clusters), and %q is another; send fewer, or ask for a higher limit: %s",
		c.limits.MaxHAClusters, c.clusterLabel, c.groups[c.last].cluster, wire.SeriesString(ls))
}
