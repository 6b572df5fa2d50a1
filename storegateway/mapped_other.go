//go:build !linux

package storegateway

import "os"

// What is mapped of indexes is left to the kernel on this system.

type mapping struct{}

func mappingOf(os.FileInfo) mapping { return mapping{} }
func (mapping) letGo()              {}

type residence struct{}

func newResidence() *residence { return &residence{} }
func (*residence) over() bool  { return false }
func (*residence) reset()      {}
func (*residence) close()      {}
