//go:build !linux

package e2e

import "testing"

func smallDisk(t testing.TB, _ string) { t.Skip("small disks are mounted on Linux only") }

func (n *node) fill() { n.t.Fatal("there is no small disk") }

func (n *node) empty() { n.t.Fatal("there is no small disk") }
