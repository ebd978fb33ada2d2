//go:build race

package main

// raceFlag builds the program under test with the race detector, as the tests are.
var raceFlag = []string{"-race"}
