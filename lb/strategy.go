package lb

// Strategy is a way to choose among backends. Its value is configuration; what
// it remembers lives in the [Picker] it builds.
type Strategy interface {
	// Build returns a Picker for a set of backends, one or more, that does not
	// change. The pool calls it whenever the set of those that may get requests
	// has changed, or a weight, and never for two sets at a time.
	Build(backends []*Backend) Picker
}

// Picker chooses a backend for each request. It is called by many goroutines at
// once, must not block and should not allocate. A Picker that wants to know how
// requests ended implements [Observer] too.
type Picker interface {
	// Pick returns a backend that is not in info.Tried, or nil if there is none.
	Pick(info PickInfo) *Backend
}

// Observer is implemented by a [Picker] that learns from what becomes of
// requests.
type Observer interface {
	// Done is called once for each request of the Picker, with the backend it
	// got. It is called by many goroutines at once and must not block.
	Done(b *Backend, o Outcome)
}
