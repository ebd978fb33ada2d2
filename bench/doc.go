// Bench measures what Palisade costs beside its rivals, and writes the report.
//
//	go run -C bench . -run lb
//
// README.md says how it is measured and how a block is added.
package main
