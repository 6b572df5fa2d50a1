package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestStories plays the stories of failures in testdata, one step a line:
//
//	tier plain                           also without the build tag e2e
//	set compactor.interval=1s            before the first start: of every process
//	start 3 ingesters zones a,b,c        nodes (they do all), writers, readers, distributors, queriers, gateways, compactors;
//	                                     named ingester-1 and so on; with label red: red-ingester-1, which
//	                                     knows where the others are, but belongs to another cluster
//	network                              before the first start: put something between them that can be cut
//	small disks                          before the first start: each ingester gets a disk of its own that can
//	                                     be filled; needs root
//	load [red]                           write and read from here on
//	kill WHO, stop WHO                   as a crash does, as an operator does; WHO: a name, zone a, all
//	pause WHO, resume WHO                stop it where it is; no connection breaks
//	cut WHO, heal WHO                    from all other members; what is on its way arrives afterwards
//	wipe WHO                             what does not run loses its disk
//	damage WHO                           what does not run finds other bytes in its log than it wrote
//	fill WHO, empty WHO                  its disk, to the last byte, with what is not Hearth's
//	start WHO                            what was killed or stopped
//	launch WHO, await WHO                the same, in two steps: it may wait for something to get ready
//	leave WHO                            hand over by POST /ingester/shutdown, then stop for good
//	alerts                               a team with a mailbox, an Alertmanager that mails there, and a rule that
//	                                     fires for each probe that fails
//	fail NAME, mend NAME                 a probe, from here on
//	silence NAME                         for an hour
//	wait alertmanagers                   all know those that are there
//	expect mail firing NAME              or resolved NAME: it comes, and is the next; one that came twice is not
//	                                     (mails "and" mails: in any order)
//	expect mails firing NAME             the same, but it may come again
//	expect no mail                       so far; besides those
//	expect muted NAME                    by a silence, or because root fails and it is a leaf
//	kill sender                          and so on: the process that is the first to notify the team
//	kill worker                          ship all, and kill the compactor that is the first to work on it
//	wait merged 4m                       the load's blocks are one for each range of time
//	expect work once                     few jobs of compactors were done twice
//	intruder 2h                          a member whose clock is so much ahead, or behind, joins
//	restart WHO one by one               stop, start, wait until it is ready and the others know
//	restart WHO in haste                 the next one as soon as the one before is ready
//	wait ring 3                          every process knows three healthy ingesters, those that are there
//	wait 100 writes, wait 100 reads      so many more
//	wait 10s
//	flush                                have every ingester ship what it has
//	check                                every sample, through every querier; then what load saw
//	check bucket                         end the load, ship all, forget the rest, check again
//	expect failed writes 0               tries that a server did not answer as it should, and should have;
//	                                     also reads
//	expect writes within 2s              from the first try to the answer; also reads. That is a goal, and how
//	                                     it was is told: a busy machine is no defect. What fails is much more
//	expect log WHO TEXT                  it says that, once at least
//	expect nothing in blue               no cluster but its own has what load wrote
func TestStories(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			s := parseStory(t, string(text))
			if !s.plain && !long {
				t.Skip("with the build tag e2e")
			}
			s.play(t)
		})
	}
}

// story is a failure, and what should come of it.
type story struct {
	plain bool
	steps []string

	t       *testing.T
	began   time.Time
	told    strings.Builder
	cluster *cluster
	checker *checker
	alarm   *alarm
	worker  *node           // that was killed last
	jobs    map[string]jobs // see countJobs
}

func parseStory(t *testing.T, text string) *story {
	t.Helper()
	s := &story{}
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		step := strings.Join(strings.Fields(line), " ")
		switch step {
		case "":
		case "tier plain":
			s.plain = true
		default:
			if find(step) == nil {
				t.Fatalf("no such step: %s", step)
			}
			s.steps = append(s.steps, step)
		}
	}
	return s
}

func (s *story) play(t *testing.T) {
	s.t, s.began, s.cluster, s.jobs = t, time.Now(), newCluster(t), map[string]jobs{}
	defer func() { // also of a story that failed
		if s.checker != nil {
			s.tell("%s", s.checker.numbers())
		}
		t.Logf("\n%s", s.told.String())
	}()
	for _, step := range s.steps {
		since := time.Now()
		s.tell("%s", step)
		find(step)(s)
		if took := time.Since(since); took > 100*time.Millisecond {
			s.tell("  took %s", took.Round(100*time.Millisecond))
		}
	}
}

func (s *story) tell(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	at := fmt.Sprintf("%6.1fs  ", time.Since(s.began).Seconds())
	for i, line := range strings.Split(text, "\n") {
		if i > 0 {
			at = strings.Repeat(" ", len(at))
		}
		s.told.WriteString(at + line + "\n")
	}
}

// steps is the language: how a step is written, and what it does with the
// words in the brackets.
var steps = []struct {
	form *regexp.Regexp
	do   func(s *story, words []string)
}{
	{form(`set (\S+)`), func(s *story, w []string) { s.cluster.set = append(s.cluster.set, w[0]) }},
	{form(`start (\d+) ([a-z]+?)s?(?: zones (\S+))?(?: label (\S+))?`), (*story).start},
	{form(`network`), func(s *story, _ []string) { s.cluster.net = newNetwork(s.t) }},
	{form(`load(?: (\S+))?`), (*story).load},
	{form(`kill worker`), (*story).killWorker},
	{form(`wait merged (\S+)`), (*story).awaitMerged},
	{form(`expect work once`), (*story).expectWorkOnce},
	{form(`(kill|stop|pause|resume|cut|heal|wipe|damage|fill|empty|start|launch|await|leave) ([a-z]\S*|zone \S+)`), (*story).act},
	{form(`small disks`), func(s *story, _ []string) { s.cluster.smallDisks = true }},
	{form(`intruder (-?\d+[hms])`), (*story).intruder},
	{form(`restart (\S+|zone \S+) one by one`), func(s *story, w []string) { s.restart(w[0], true) }},
	{form(`restart (\S+|zone \S+) in haste`), func(s *story, w []string) { s.restart(w[0], false) }},
	{form(`wait ring (\d+)`), func(s *story, w []string) { s.cluster.awaitRing(atoi(w[0])) }},
	{form(`wait (\d+) (writes|reads)`), (*story).waitFor},
	{form(`wait (\d+m?s)`), (*story).waitTime},
	{form(`flush`), func(s *story, _ []string) { s.cluster.flushAll() }},
	{form(`check`), (*story).check},
	{form(`check bucket`), (*story).checkBucket},
	{form(`check keys`), (*story).checkKeys},
	{form(`expect failed (writes|reads) (\d+)`), (*story).expectFailed},
	{form(`expect (writes|reads) within (\S+)`), (*story).expectWithin},
	{form(`expect nothing in (\S+)`), (*story).expectNothing},
	{form(`expect log (\S+) (.+)`), (*story).expectLog},
	{form(`alerts`), (*story).alerts},
	{form(`(fail|mend) (\S+)`), (*story).probe},
	{form(`silence (\S+)`), func(s *story, w []string) { s.anyone().silence(w[0]) }},
	{form(`wait alertmanagers`), (*story).awaitAlertmanagers},
	{form(`expect (mail) ((?:firing|resolved) \S+(?: and (?:firing|resolved) \S+)*)`), (*story).expectMail},
	{form(`expect (mails) ((?:firing|resolved) \S+)`), (*story).expectMail},
	{form(`expect no mail`), func(s *story, _ []string) { s.alarm.expectNone() }},
	{form(`expect muted (\S+)`), (*story).expectMuted},
}

func form(text string) *regexp.Regexp { return regexp.MustCompile("^" + text + "$") }

func find(step string) func(*story) {
	for _, known := range steps {
		if words := known.form.FindStringSubmatch(step); words != nil {
			return func(s *story) { known.do(s, words[1:]) }
		}
	}
	return nil
}

func atoi(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err) // the form says that it is one
	}
	return n
}

func (s *story) start(w []string) {
	role, zones := w[1], []string(nil)
	if targets[role] == "" {
		s.t.Fatalf("no such process: %s", role)
	}
	if w[2] != "" {
		zones = strings.Split(w[2], ",")
	}
	s.cluster.add(role, atoi(w[0]), zones, w[3])
}

func (s *story) load(w []string) {
	s.checker = newChecker(s.t, s.cluster, w[0])
	s.checker.run()
}

func (s *story) act(w []string) {
	do := map[string]func(*node){
		"kill": (*node).crash, "stop": (*node).stopCleanly, "start": (*node).startAgain,
		"pause": (*node).pause, "resume": (*node).resume, "wipe": (*node).wipe,
		"cut": s.cut, "heal": s.heal, "damage": (*node).damage, "fill": (*node).fill, "empty": (*node).empty,
		"launch": (*node).launch, "await": (*node).await, "leave": (*node).leave,
	}[w[0]]
	switch w[1] {
	case "sender":
		do(s.theSender())
		return
	case "worker":
		do(s.worker)
		return
	}
	for _, n := range s.cluster.named(w[1]) {
		if n.compacts() {
			s.countJobs()
		}
		do(n)
	}
}

func (s *story) cut(n *node) {
	if s.cluster.net == nil {
		s.t.Fatal("there is no network: it is a step before the first start")
	}
	n.state.Store(cutOff)
	s.cluster.net.set(n, true)
}

// heal ends a cut. Those that wait for the ring then want to have heard from
// everyone since.
func (s *story) heal(n *node) {
	for _, other := range s.cluster.nodes {
		other.since = time.Now()
	}
	s.cluster.net.set(n, false)
	n.state.Store(present)
}

// restart does as those do that roll out a new version: the next one is
// stopped when the one before says that it is ready and, if careful, all know.
func (s *story) restart(what string, careful bool) {
	for _, n := range s.cluster.named(what) {
		since := time.Now()
		n.stopCleanly()
		down := time.Since(since)
		n.startAgain()
		if careful {
			s.cluster.awaitRing(len(s.cluster.those(n.label, (*node).ingests)))
		}
		s.tell("  %s: stopped in %s, back after %s", n.name, down.Round(10*time.Millisecond), time.Since(since).Round(10*time.Millisecond))
	}
}

func (s *story) waitFor(w []string) {
	count := func() int {
		k := s.checker
		k.mu.Lock()
		defer k.mu.Unlock()
		if w[1] == "reads" {
			return k.read.done
		}
		return k.write.done
	}
	want := count() + atoi(w[0])
	until(s.t, patience, fmt.Sprintf("%s more %s", w[0], w[1]), func() error {
		if have := count(); have < want {
			return fmt.Errorf("%d are missing\n%s", want-have, s.checker.numbers())
		}
		return nil
	})
}

// waitTime lets a story go on for a while, where time itself is what it tells of.
func (s *story) waitTime(w []string) {
	d, err := time.ParseDuration(w[0])
	require.NoError(s.t, err)
	if s.plain {
		s.t.Fatal("a story of the plain tier waits for something that happens")
	}
	<-time.After(d)
}

func (s *story) check([]string) { s.checker.check("in the story") }

// checkKeys wants that ingesters have stored by keys what they knew.
func (s *story) checkKeys([]string) {
	for _, n := range s.cluster.those(s.checker.label, (*node).ingests) {
		stored := n.metric(`hearth_ingester_keyed_requests_total{outcome="stored"}`)
		s.tell("  %s: %g requests stored by keys", n.name, stored)
		require.Positive(s.t, stored, n.name)
	}
}

func (s *story) checkBucket([]string) {
	s.checker.stopped()
	s.cluster.flushAll()
	s.checker.check("all flushed")
	s.tell("  all flushed and checked")
	s.cluster.forgetRecent()
	s.tell("  only the bucket is left")
	s.cluster.awaitRing(len(s.cluster.those(s.checker.label, (*node).ingests)))
	s.checker.check("from the bucket alone")
}

func (s *story) tally(kind string) tally {
	k := s.checker
	k.mu.Lock()
	defer k.mu.Unlock()
	if kind == "reads" {
		return k.read
	}
	return k.write
}

func (s *story) expectFailed(w []string) {
	if have := s.tally(w[0]); have.failed > atoi(w[1]) {
		s.t.Errorf("%d %s failed, want at most %s:\n%s", have.failed, w[0], w[1], strings.Join(have.why, "\n"))
	}
}

func (s *story) expectWithin(w []string) {
	goal, err := time.ParseDuration(w[1])
	require.NoError(s.t, err)
	most := 3 * map[string]time.Duration{"writes": writeTimeout, "reads": readTimeout}[w[0]]
	have := s.tally(w[0])
	how := "met"
	if have.worst > goal {
		how = "missed"
	}
	s.tell("  at worst %s: %s", have.worst.Round(time.Millisecond), how)
	if have.worst > most {
		s.t.Errorf("%s took %s at worst, the goal is %s, %s is too much:\n%s", w[0], have.worst, goal, most, &have)
	}
}

func (s *story) expectLog(w []string) {
	for _, n := range s.cluster.named(w[0]) {
		until(s.t, patience, fmt.Sprintf("%s to say %q", n.name, w[1]), func() error {
			if !strings.Contains(n.log(), w[1]) {
				return errors.New("it has not")
			}
			return nil
		})
	}
}

func (s *story) expectNothing(w []string) {
	k := s.checker
	others := s.cluster.those(w[0], (*node).queries)
	require.NotEmpty(s.t, others)
	require.False(s.t, slices.Contains(others, nil))
	for _, n := range others {
		for _, writer := range k.writers {
			got, err := n.read(writer.tenant, 0, time.Now().Add(time.Hour).UnixMilli(), everything())
			require.NoError(s.t, err)
			require.Empty(s.t, got, "%s has what was written to others", n.name)
		}
	}
}
