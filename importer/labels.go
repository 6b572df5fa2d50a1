package importer

import (
	"fmt"
	"unicode/utf8"

	"github.com/prometheus/prometheus/model/labels"

	"github.com/hearth-metrics/hearth/tenant"
)

// labelRules are the rules for labels of series that are written, for series
// of blocks. A block is taken or not as a whole, so one series is enough.
type labelRules struct{ limits *tenant.Limits }

func (r labelRules) check(ls labels.Labels) error {
	l, size := r.limits, 0
	if n := ls.Len(); l.MaxLabelNamesPerSeries > 0 && n > l.MaxLabelNamesPerSeries {
		return fmt.Errorf("a series has %d labels, the limit is %d (limit max_label_names_per_series): %s", n, l.MaxLabelNamesPerSeries, ls)
	}
	if err := ls.Validate(func(one labels.Label) error {
		size += len(one.Name) + len(one.Value)
		switch {
		case one.Name == "" || one.Name[0] == 0 || !utf8.ValidString(one.Name) || !utf8.ValidString(one.Value):
			return fmt.Errorf("a series has a label name that is empty or begins with a zero byte, or a name or value that is not UTF-8: %s", ls)
		case l.MaxLabelNameLength > 0 && len(one.Name) > l.MaxLabelNameLength:
			return fmt.Errorf("a series has a label name longer than %d bytes (limit max_label_name_length): %s", l.MaxLabelNameLength, ls)
		case l.MaxLabelValueLength > 0 && len(one.Value) > l.MaxLabelValueLength:
			return fmt.Errorf("a series has a label value longer than %d bytes (limit max_label_value_length): %s", l.MaxLabelValueLength, ls)
		}
		return nil
	}); err != nil {
		return err
	}
	if l.MaxLabelsSize > 0 && size > l.MaxLabelsSize {
		return fmt.Errorf("the labels of a series have more than %d bytes (limit max_labels_size): %s", l.MaxLabelsSize, ls)
	}
	return nil
}
