package main

import (
	"encoding/binary"
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of remote write 1.0 (prometheus.WriteRequest) and 2.0
// (io.prometheus.write.v2.Request). The sample message is the same in both.
const (
	v1Series, v1Labels                           = 1, 1
	v2Symbols, v2Series                          = 4, 5
	v2LabelRefs, v2Metadata                      = 1, 5
	samples                                      = 2 // of a series, in both
	labelName, labelValue                        = 1, 2
	sampleValue, sampleTime                      = 1, 2
	metadataType, metadataHelp                   = 1, 3
	metadataCounter, metadataGauge, metadataHist = 1, 2, 3
)

// timeWidth is how many bytes the varint of a time takes, so that a body can
// be used again with another time in the same place. Six bytes hold the
// milliseconds from 1971 to 2109.
const timeWidth = 6

// sampleSize is the encoded size of a sample: tag, eight bytes, tag, time.
const sampleSize = 1 + 8 + 1 + timeWidth

// body is a write request with one sample for each of its series. The labels
// are encoded once; set puts other samples into their places.
type body struct {
	raw []byte
	at  []int32 // where each series' value starts
}

// encodeV1 lays out a remote write 1.0 request.
func encodeV1(all []series) *body {
	b := &body{at: make([]int32, 0, len(all))}
	var msg, pair []byte
	for i := range all {
		msg = msg[:0]
		for _, l := range all[i].labels {
			pair = protowire.AppendTag(pair[:0], labelName, protowire.BytesType)
			pair = protowire.AppendString(pair, l.name)
			pair = protowire.AppendTag(pair, labelValue, protowire.BytesType)
			pair = protowire.AppendString(pair, l.value)
			msg = protowire.AppendTag(msg, v1Labels, protowire.BytesType)
			msg = protowire.AppendBytes(msg, pair)
		}
		msg, at := appendSample(msg)
		b.appendSeries(v1Series, msg, at)
	}
	return b
}

// encodeV2 lays out a remote write 2.0 request: symbols first, then series
// that refer to them, each with its metadata as senders do.
func encodeV2(all []series) *body {
	table := symbols{index: map[string]uint64{}}
	table.ref("") // the specification wants the empty string first
	help := table.ref("Made by the load generator.")
	msgs := make([][]byte, len(all))
	ats := make([]int, len(all))
	for i := range all {
		var refs, msg, meta []byte
		for _, l := range all[i].labels {
			refs = protowire.AppendVarint(refs, table.ref(l.name))
			refs = protowire.AppendVarint(refs, table.ref(l.value))
		}
		msg = protowire.AppendTag(msg, v2LabelRefs, protowire.BytesType)
		msg = protowire.AppendBytes(msg, refs)
		msg, ats[i] = appendSample(msg)
		meta = protowire.AppendTag(meta, metadataType, protowire.VarintType)
		meta = protowire.AppendVarint(meta, metricType(all[i].curve.kind))
		meta = protowire.AppendTag(meta, metadataHelp, protowire.VarintType)
		meta = protowire.AppendVarint(meta, help)
		msg = protowire.AppendTag(msg, v2Metadata, protowire.BytesType)
		msgs[i] = protowire.AppendBytes(msg, meta)
	}
	b := &body{at: make([]int32, 0, len(all))}
	for _, s := range table.list {
		b.raw = protowire.AppendTag(b.raw, v2Symbols, protowire.BytesType)
		b.raw = protowire.AppendString(b.raw, s)
	}
	for i, msg := range msgs {
		b.appendSeries(v2Series, msg, ats[i])
	}
	return b
}

// appendSeries adds one series' message whose value starts at at.
func (b *body) appendSeries(field protowire.Number, msg []byte, at int) {
	b.raw = protowire.AppendTag(b.raw, field, protowire.BytesType)
	b.raw = protowire.AppendVarint(b.raw, uint64(len(msg)))
	b.at = append(b.at, int32(len(b.raw)+at))
	b.raw = append(b.raw, msg...)
}

// appendSample reserves the place of a sample and says where its value starts.
func appendSample(msg []byte) ([]byte, int) {
	msg = protowire.AppendTag(msg, samples, protowire.BytesType)
	msg = protowire.AppendVarint(msg, sampleSize)
	msg = protowire.AppendTag(msg, sampleValue, protowire.Fixed64Type)
	at := len(msg)
	msg = protowire.AppendFixed64(msg, 0)
	msg = protowire.AppendTag(msg, sampleTime, protowire.VarintType)
	return append(msg, make([]byte, timeWidth)...), at
}

// set writes the sample of series i.
func (b *body) set(i int, value float64, at int64) {
	p := b.raw[b.at[i]:]
	binary.LittleEndian.PutUint64(p, math.Float64bits(value))
	putTime(p[9:9+timeWidth], at)
}

// putTime writes a varint of timeWidth bytes.
func putTime(p []byte, at int64) {
	for i := range timeWidth - 1 {
		p[i] = byte(at>>(7*i)) | 0x80
	}
	p[timeWidth-1] = byte(at >> (7 * (timeWidth - 1)))
}

// checkTime refuses times whose varint has another width.
func checkTime(at int64) error {
	if protowire.SizeVarint(uint64(at)) != timeWidth {
		return fmt.Errorf("time %d ms does not take %d bytes", at, timeWidth)
	}
	return nil
}

// symbols numbers the strings of a remote write 2.0 request.
type symbols struct {
	list  []string
	index map[string]uint64
}

func (t *symbols) ref(s string) uint64 {
	if n, ok := t.index[s]; ok {
		return n
	}
	n := uint64(len(t.list))
	t.list = append(t.list, s)
	t.index[s] = n
	return n
}

func metricType(k curveKind) uint64 {
	switch k {
	case counterCurve, secondsCurve:
		return metadataCounter
	case bucketCurve:
		return metadataHist
	default:
		return metadataGauge
	}
}
