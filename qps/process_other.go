//go:build !linux

package qps

import "time"

// readSystem knows only /proc.
func readSystem(*ProcessSnapshot) {}

func processStart() time.Time { return time.Time{} }
