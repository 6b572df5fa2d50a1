package distributor

import (
	"time"
	"unicode/utf8"

	"github.com/prometheus/prometheus/model/histogram"

	"github.com/hearth-metrics/hearth/tenant"
	"github.com/hearth-metrics/hearth/wire"
)

// validator checks the series of one request against a tenant's limits, and
// takes out of it what may not go on. It is made for each request.
type validator struct {
	limits  *tenant.Limits
	r       *wire.Request
	minT    int64 // ms; samples may be from minT to maxT
	maxT    int64
	refused wire.Refusals
	ha      *haCheck // nil: the tenant's requests are not deduplicated
}

func newValidator(l *tenant.Limits, r *wire.Request, now time.Time) *validator {
	v := &validator{limits: l, r: r, maxT: now.Add(time.Duration(l.CreationGracePeriod)).UnixMilli()}
	if l.CreationGracePeriod == 0 {
		v.maxT = 1<<63 - 1
	}
	v.minT = -1 << 63
	if l.PastGracePeriod > 0 {
		v.minT = now.Add(-time.Duration(l.PastGracePeriod)).UnixMilli()
	}
	return v
}

// series is the check that wire.Request.Walk calls: a series with bad labels
// goes as a whole, otherwise its bad samples do.
func (v *validator) series(s *wire.Series, ls []wire.Label) bool {
	// A series without samples counts as one where it is refused.
	n := max(1, s.Samples.Len()+s.Histograms.Len()+s.Exemplars.Len())
	if v.ha != nil {
		var verdict haVerdict
		if ls, verdict = v.ha.series(s, ls); verdict != haStored {
			if verdict == haTooMany {
				v.refused.Add("err-too-many-ha-clusters", n, func() *wire.UserError { return v.ha.refusal(ls) })
			}
			return false
		}
	}
	if id := v.checkLabels(s, ls); id != "" {
		v.refused.Add(id, n, func() *wire.UserError { return v.describeLabels(id, ls) })
		return false
	}
	for k := s.Samples.Lo; k < s.Samples.Hi; k++ {
		if t := v.r.Samples[k].T; t > v.maxT || t < v.minT {
			v.dropSamples(s, ls)
			break
		}
	}
	if s.Histograms.Len() > 0 {
		v.dropHistograms(s, ls)
	}
	if s.Exemplars.Len() > 0 {
		v.dropExemplars(s, ls)
	}
	return s.Samples.Len()+s.Histograms.Len()+s.Exemplars.Len() > 0
}

// checkLabels returns the id of the first rule that the labels break, or "".
// Labels are sorted by name and have no empty values.
func (v *validator) checkLabels(s *wire.Series, ls []wire.Label) string {
	l := v.limits
	if l.MaxLabelNamesPerSeries > 0 && len(ls) > l.MaxLabelNamesPerSeries {
		return "err-max-label-names-per-series"
	}
	size, named, before := 0, false, ""
	for i := range ls {
		name, value := ls[i].Name, ls[i].Value
		size += len(name) + len(value)
		switch {
		case name == "" || name[0] == 0:
			return "err-label-invalid"
		case i > 0 && name == before:
			return "err-duplicate-label-names"
		case l.MaxLabelNameLength > 0 && len(name) > l.MaxLabelNameLength:
			return "err-label-name-too-long"
		case l.MaxLabelValueLength > 0 && len(value) > l.MaxLabelValueLength:
			return "err-label-value-too-long"
		}
		named = named || name == "__name__"
		before = name
	}
	switch {
	case !s.ValidUTF8:
		return "err-label-invalid"
	case !named:
		return "err-missing-metric-name"
	case l.MaxLabelsSize > 0 && size > l.MaxLabelsSize:
		return "err-labels-too-large"
	}
	return ""
}

func (v *validator) describeLabels(id string, ls []wire.Label) *wire.UserError {
	l, series := v.limits, wire.SeriesString(ls)
	switch id {
	case "err-max-label-names-per-series":
		return wire.Errorf(wire.Invalid, id, "series has %d labels, the limit is %d (limit max_label_names_per_series); drop labels: %s", len(ls), l.MaxLabelNamesPerSeries, series)
	case "err-duplicate-label-names":
		return wire.Errorf(wire.Invalid, id, "series has a label name twice; send each once: %s", series)
	case "err-label-name-too-long":
		return wire.Errorf(wire.Invalid, id, "series has a label name longer than %d bytes (limit max_label_name_length); shorten it: %s", l.MaxLabelNameLength, series)
	case "err-label-value-too-long":
		return wire.Errorf(wire.Invalid, id, "series has a label value longer than %d bytes (limit max_label_value_length); shorten it: %s", l.MaxLabelValueLength, series)
	case "err-labels-too-large":
		return wire.Errorf(wire.Invalid, id, "the labels of a series have more than %d bytes (limit max_labels_size); drop or shorten labels: %s", l.MaxLabelsSize, series)
	case "err-missing-metric-name":
		return wire.Errorf(wire.Invalid, id, "series has no metric name; send the label __name__: %s", series)
	default:
		return wire.Errorf(wire.Invalid, id, "series has a label name that is empty or begins with a zero byte, or a name or value that is not UTF-8: %s", series)
	}
}

// dropSamples takes out the floats that are out of the times allowed.
func (v *validator) dropSamples(s *wire.Series, ls []wire.Label) {
	kept := v.r.Samples[:s.Samples.Lo]
	for _, x := range v.r.Samples[s.Samples.Lo:] {
		if v.timely(x.T, ls) {
			kept = append(kept, x)
		}
	}
	v.r.Samples = kept
	s.Samples.Hi = uint32(len(kept))
}

// timely refuses a sample that is too far in the future or the past.
func (v *validator) timely(t int64, ls []wire.Label) bool {
	switch {
	case t > v.maxT:
		v.refused.Add("err-too-far-in-future", 1, func() *wire.UserError {
			return wire.Errorf(wire.Invalid, "err-too-far-in-future", "sample at %s is more than %s in the future (limit creation_grace_period); check the sender's clock: %s", timeString(t), v.limits.CreationGracePeriod, wire.SeriesString(ls))
		})
	case t < v.minT:
		v.refused.Add("err-too-far-in-past", 1, func() *wire.UserError {
			return wire.Errorf(wire.Invalid, "err-too-far-in-past", "sample at %s is more than %s in the past (limit past_grace_period): %s", timeString(t), v.limits.PastGracePeriod, wire.SeriesString(ls))
		})
	default:
		return true
	}
	return false
}

// dropHistograms takes out native histograms that contradict themselves, are
// out of the times allowed, or have more buckets than allowed even at a lower
// resolution.
func (v *validator) dropHistograms(s *wire.Series, ls []wire.Label) {
	kept := v.r.Histograms[:s.Histograms.Lo]
	for _, x := range v.r.Histograms[s.Histograms.Lo:] {
		if v.timely(x.T, ls) && v.soundHistogram(&x, ls) {
			kept = append(kept, x)
		}
	}
	clear(v.r.Histograms[len(kept):])
	v.r.Histograms = kept
	s.Histograms.Hi = uint32(len(kept))
}

func (v *validator) soundHistogram(x *wire.Histogram, ls []wire.Label) bool {
	var err error
	var buckets int
	if x.H != nil {
		err = x.H.Validate()
		buckets = len(x.H.PositiveBuckets) + len(x.H.NegativeBuckets)
	} else {
		err = x.FH.Validate()
		buckets = len(x.FH.PositiveBuckets) + len(x.FH.NegativeBuckets)
	}
	if err != nil {
		v.refused.Add("err-native-histogram-invalid", 1, func() *wire.UserError {
			return wire.Errorf(wire.Invalid, "err-native-histogram-invalid", "native histogram at %s is invalid: %s: %s", timeString(x.T), err, wire.SeriesString(ls))
		})
		return false
	}
	limit := v.limits.MaxHistogramBuckets
	if limit <= 0 || buckets <= limit {
		return true
	}
	if reduce(x, limit) {
		v.r.Altered = true
		return true
	}
	v.refused.Add("err-max-native-histogram-buckets", 1, func() *wire.UserError {
		return wire.Errorf(wire.Invalid, "err-max-native-histogram-buckets", "native histogram at %s has %d buckets, the limit is %d (limit max_native_histogram_buckets) at any resolution: %s", timeString(x.T), buckets, limit, wire.SeriesString(ls))
	})
	return false
}

// reduce halves the resolution of an exponential histogram until it has no
// more than limit buckets. Nothing is lost but resolution, as in Prometheus'
// own native_histogram_bucket_limit.
func reduce(x *wire.Histogram, limit int) bool {
	if x.H != nil {
		for !x.H.UsesCustomBuckets() && x.H.Schema > histogram.ExponentialSchemaMin {
			if x.H.ReduceResolution(x.H.Schema-1) != nil {
				return false
			}
			if len(x.H.PositiveBuckets)+len(x.H.NegativeBuckets) <= limit {
				return true
			}
		}
		return false
	}
	for !x.FH.UsesCustomBuckets() && x.FH.Schema > histogram.ExponentialSchemaMin {
		if x.FH.ReduceResolution(x.FH.Schema-1) != nil {
			return false
		}
		if len(x.FH.PositiveBuckets)+len(x.FH.NegativeBuckets) <= limit {
			return true
		}
	}
	return false
}

// dropExemplars takes out exemplars that break the rules of OpenMetrics.
func (v *validator) dropExemplars(s *wire.Series, ls []wire.Label) {
	kept := v.r.Exemplars[:s.Exemplars.Lo]
	for _, x := range v.r.Exemplars[s.Exemplars.Lo:] {
		if v.soundExemplar(&x, ls) {
			kept = append(kept, x)
		}
	}
	most := v.limits.MaxExemplarsPerSeries
	if all := kept[s.Exemplars.Lo:]; most > 0 && len(all) > most {
		v.refused.Add("err-max-exemplars-per-series", len(all)-most, func() *wire.UserError {
			return wire.Errorf(wire.Invalid, "err-max-exemplars-per-series", "series has %d exemplars in one request, the limit is %d (limit max_exemplars_per_series_per_request): %s", len(all), most, wire.SeriesString(ls))
		})
		kept = kept[:int(s.Exemplars.Lo)+copy(all, all[len(all)-most:])] // they come in order of time
	}
	v.r.Exemplars = kept
	s.Exemplars.Hi = uint32(len(kept))
}

func (v *validator) soundExemplar(x *wire.Exemplar, ls []wire.Label) bool {
	size, valid := 0, true
	for _, l := range v.r.ExemplarLabels[x.Labels.Lo:x.Labels.Hi] {
		size += utf8.RuneCountInString(l.Name) + utf8.RuneCountInString(l.Value)
		valid = valid && l.Name != "" && l.Name[0] != 0 && utf8.ValidString(l.Name) && utf8.ValidString(l.Value)
	}
	limit := v.limits.MaxExemplarLabelsLength
	switch {
	case !valid:
		v.refuseExemplar("err-exemplar-label-invalid", "has a label name that is empty or begins with a zero byte, or a name or value that is not UTF-8", ls)
	case limit > 0 && size > limit:
		v.refuseExemplar("err-exemplar-labels-too-long", "has labels that are too long together (limit max_exemplar_labels_length)", ls)
	case !x.HasTS:
		v.refuseExemplar("err-exemplar-timestamp-missing", "has no timestamp", ls)
	default:
		return v.timely(x.T, ls)
	}
	return false
}

func (v *validator) refuseExemplar(id, what string, ls []wire.Label) {
	v.refused.Add(id, 1, func() *wire.UserError {
		return wire.Errorf(wire.Invalid, id, "exemplar %s; its series: %s", what, wire.SeriesString(ls))
	})
}

// metadata takes out metadata without a metric's name and shortens long texts.
func (v *validator) metadata() {
	v.r.CleanMetadata(func() {
		v.refused.Add("err-metadata-invalid", 1, func() *wire.UserError {
			return wire.Errorf(wire.Invalid, "err-metadata-invalid", "metadata needs the name of a metric, valid UTF-8 of at most %d bytes", wire.MaxMetadataText)
		})
	})
}

func timeString(t int64) string { return time.UnixMilli(t).UTC().Format(time.RFC3339Nano) }
