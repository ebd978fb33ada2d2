package qps

import (
	"strings"
	"unicode/utf8"
)

const (
	maxLabel = 256 // bytes
	other    = "other"
)

// label makes any string fit to be the value of a label: valid UTF-8, short,
// and cut between runes.
func label(s string) string {
	return cut(strings.ToValidUTF8(cut(s), "\uFFFD"))
}

func isLabel(s string) bool { return len(s) <= maxLabel && utf8.ValidString(s) }

func cut(s string) string {
	if len(s) <= maxLabel {
		return s
	}
	end := maxLabel
	// A rune has four bytes at most, so three steps back suffice; in what is
	// not UTF-8 any place is as good.
	for range utf8.UTFMax - 1 {
		if utf8.RuneStart(s[end]) {
			break
		}
		end--
	}
	return s[:end]
}

// method is the index of a request method in methodNames. Clients may invent
// methods, so all but the standard ones are one.
type method uint8

var methodNames = [...]string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE", other}

// sortedMethods are the methods in the order of their names.
var sortedMethods = [len(methodNames)]method{6, 5, 0, 1, 7, 4, 2, 3, 8, methodOther}

const methodOther = method(len(methodNames) - 1)

func methodOf(name string) method {
	for i := range methodOther {
		if methodNames[i] == name {
			return i
		}
	}
	return methodOther
}
