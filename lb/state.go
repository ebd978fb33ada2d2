package lb

import (
	"fmt"
	"time"
)

// State says whether a backend gets requests.
type State int32

const (
	// Unknown is a backend whose first check has not ended. It gets requests
	// only while no backend is healthy, so that a start never refuses requests
	// that could have been served.
	Unknown State = iota
	// Healthy is a backend that passed its checks, or any backend of a pool
	// without checks.
	Healthy
	// Unhealthy is a backend that failed its checks or refused a connection. It
	// gets requests only while no backend is healthy or unknown.
	Unhealthy
	// Draining is a backend that gets no new requests until Resume. The ones it
	// has go on.
	Draining
	// Ejected is a healthy backend that failed too many requests (see
	// OutlierDetection). It gets requests only while no backend is healthy or
	// unknown, and is healthy again when its time is over.
	Ejected
)

var stateNames = [...]string{Unknown: "unknown", Healthy: "healthy", Unhealthy: "unhealthy", Draining: "draining", Ejected: "ejected"}

// String returns the state in lower case, such as "healthy".
func (s State) String() string {
	if s < 0 || int(s) >= len(stateNames) {
		return fmt.Sprintf("State(%d)", int32(s))
	}
	return stateNames[s]
}

// MarshalText implements encoding.TextMarshaler. A value that is none of the
// constants is an error.
func (s State) MarshalText() ([]byte, error) {
	if s < 0 || int(s) >= len(stateNames) {
		return nil, fmt.Errorf("lb: %v is no state", s)
	}
	return []byte(stateNames[s]), nil
}

// UnmarshalText implements encoding.TextUnmarshaler for what String returns.
func (s *State) UnmarshalText(text []byte) error {
	for i, name := range stateNames {
		if name == string(text) {
			*s = State(i)
			return nil
		}
	}
	return fmt.Errorf("lb: state is %q, want unknown, healthy, unhealthy, draining or ejected", text)
}

// StateChange is one backend's change from a state to another. It is plain
// data.
type StateChange struct {
	Backend  string // its ID
	From, To State
	Circuit  Circuit // at the time; it opens with To Ejected
	Err      error   // why; nil for a change for the better, and for a drain
	Time     time.Time
}
