package lb

import "fmt"

// Circuit is what [OutlierDetection] makes of a backend, in the words of circuit
// breakers. A backend's health and a drain do not change it.
type Circuit int32

const (
	// CircuitClosed is a backend about whose requests there is no complaint.
	CircuitClosed Circuit = iota
	// CircuitHalfOpen is a backend whose ejection is over and that has not served
	// a request since: its first failure ejects it again.
	CircuitHalfOpen
	// CircuitOpen is a backend that is ejected.
	CircuitOpen
)

var circuitNames = [...]string{CircuitClosed: "closed", CircuitHalfOpen: "half-open", CircuitOpen: "open"}

// String returns "closed", "half-open" or "open".
func (c Circuit) String() string {
	if c < 0 || int(c) >= len(circuitNames) {
		return fmt.Sprintf("Circuit(%d)", int32(c))
	}
	return circuitNames[c]
}

// MarshalText implements encoding.TextMarshaler. A value that is none of the
// constants is an error.
func (c Circuit) MarshalText() ([]byte, error) {
	if c < 0 || int(c) >= len(circuitNames) {
		return nil, fmt.Errorf("lb: %v is no circuit", c)
	}
	return []byte(circuitNames[c]), nil
}

// UnmarshalText implements encoding.TextUnmarshaler for what String returns.
func (c *Circuit) UnmarshalText(text []byte) error {
	for i, name := range circuitNames {
		if name == string(text) {
			*c = Circuit(i)
			return nil
		}
	}
	return fmt.Errorf("lb: circuit is %q, want closed, half-open or open", text)
}

func (c *conduct) circuit() Circuit {
	switch {
	case c.ejected.Load():
		return CircuitOpen
	case c.trial.Load():
		return CircuitHalfOpen
	}
	return CircuitClosed
}
