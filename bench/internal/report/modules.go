package report

import (
	"runtime/debug"
)

// Modules returns the rivals that are compiled into this program, with the
// versions that they have in it.
func Modules(paths ...string) []Program {
	versions := make(map[string]string)
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			versions[m.Path] = m.Version
		}
	}
	var programs []Program
	for _, p := range paths {
		programs = append(programs, Program{Name: p, Version: versions[p]})
	}
	return programs
}
