// Package arch holds the project's structural laws as tests: the wall between
// the blocks, what each block may import, what a program that imports one
// block pulls in, and the form every package keeps.
//
// The tests read the source files themselves rather than ask the go command
// for a list: the test cache follows the files a test opens, so a breach is
// seen even when nothing in this package changed.
package arch
