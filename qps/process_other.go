//go:build !linux

package qps

// readSystem knows only /proc.
func readSystem(*ProcessSnapshot) {}
