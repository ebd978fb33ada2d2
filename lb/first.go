package lb

// First gives every request to the first backend, in the order in which they
// were set, as long as it may get requests, and then to the next. Choose it for
// a server and its spare, where only one shall work at a time. Weights mean
// nothing to it. It is a value without state.
type First struct{}

// Build implements [Strategy].
func (First) Build(backends []*Backend) Picker { return first(backends) }

type first []*Backend

func (f first) Pick(info PickInfo) *Backend {
	for _, b := range f {
		if !info.HasTried(b) {
			return b
		}
	}
	return nil
}
