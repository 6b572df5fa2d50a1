package tenant

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/prometheus/common/model"
)

// Overrides are limits by name, as they are written: a number, a boolean, a
// text, or a duration like "30m". What is not named is not overridden.
type Overrides map[string]json.RawMessage

var durationType = reflect.TypeFor[model.Duration]()

// limitFields is where each limit is in Limits, by its name in the
// configuration.
var limitFields = func() map[string]int {
	fields := map[string]int{}
	t := reflect.TypeFor[Limits]()
	for i := range t.NumField() {
		fields[t.Field(i).Tag.Get("yaml")] = i
	}
	return fields
}()

// LimitNames lists all limits, sorted.
func LimitNames() []string { return slices.Sorted(maps.Keys(limitFields)) }

// Validate names the first limit that is unknown or has a value that cannot be.
func (o Overrides) Validate() error {
	l := DefaultLimits()
	if err := o.apply(&l); err != nil {
		return err
	}
	if err := l.Validate(); err != nil { // the defaults are sound, so it is one of these
		return fieldError("limits", "%s", err)
	}
	return nil
}

// apply sets in l what is overridden.
func (o Overrides) apply(l *Limits) error {
	v := reflect.ValueOf(l).Elem()
	for _, name := range slices.Sorted(maps.Keys(o)) {
		i, ok := limitFields[name]
		if !ok {
			return fieldError("limits."+name, "there is no such limit; there are %s", strings.Join(LimitNames(), ", "))
		}
		if err := setLimit(v.Field(i), o[name]); err != nil {
			return fieldError("limits."+name, "%s", err)
		}
	}
	return nil
}

func setLimit(field reflect.Value, raw json.RawMessage) error {
	if field.Type() == durationType {
		var text string
		if json.Unmarshal(raw, &text) != nil {
			return fmt.Errorf("want a duration like \"30m\", got %s", raw)
		}
		d, err := model.ParseDuration(text)
		if err != nil {
			return err
		}
		field.SetInt(int64(d))
		return nil
	}
	value := reflect.New(field.Type()) // not the field: others share what its list lies in
	if string(raw) == "null" || decodeStrictly(raw, value.Interface()) != nil {
		return fmt.Errorf("want a %s, got %s", kindName(field.Kind()), raw)
	}
	field.Set(value.Elem())
	if (field.CanInt() && field.Int() < 0) || (field.CanFloat() && field.Float() < 0) {
		return fmt.Errorf("must not be negative, 0 means no limit")
	}
	return nil
}

func decodeStrictly(raw json.RawMessage, v any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	return d.Decode(v)
}

func kindName(k reflect.Kind) string {
	switch k {
	case reflect.Bool:
		return "boolean"
	case reflect.String:
		return "text"
	case reflect.Int:
		return "whole number"
	case reflect.Slice:
		return "list of label sets with limits"
	default:
		return "number"
	}
}

// Where a limit's value comes from.
const (
	FromDefaults = "default"
	FromPlan     = "plan"
	FromTenant   = "tenant"
)

// EffectiveLimit is a limit that holds for a tenant.
type EffectiveLimit struct {
	Value  any    `json:"value"`
	Source string `json:"source"` // default, plan or tenant
}

// differing is the limits that are not as everyone has them.
func (l *Limits) differing(everyone *Limits) Overrides {
	o := Overrides{}
	theirs := maps.Collect(everyone.eachLimit())
	for name, value := range l.eachLimit() {
		if !reflect.DeepEqual(value, theirs[name]) {
			o[name], _ = json.Marshal(value) // a number, a boolean, a text or a list
		}
	}
	return o
}

// eachLimit yields the name and value of every limit; durations as text.
func (l *Limits) eachLimit() iter.Seq2[string, any] {
	return func(yield func(string, any) bool) {
		v := reflect.ValueOf(l).Elem()
		for _, name := range LimitNames() {
			value := v.Field(limitFields[name]).Interface()
			if d, ok := value.(model.Duration); ok {
				value = d.String()
			}
			if !yield(name, value) {
				return
			}
		}
	}
}
