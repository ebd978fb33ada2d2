//go:build race

package qps

const raceEnabled = true
