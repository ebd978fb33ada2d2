package dbrouter

import "errors"

// maxWaitAnswer bounds the answer to a wait, in bytes: it has about 60, and those
// of the column's name, for which servers take up to 256 characters.
const maxWaitAnswer = 2 << 10

var (
	// errBehind: the server has not applied the position in time.
	errBehind = errors.New("dbrouter: the replica is behind")
	// errWaitRefused: the server answers with an error. It was asked to end the
	// wait, or knows none.
	errWaitRefused = errors.New("dbrouter: the server does not wait")
	// errWaitAnswer: the server answers what is no answer to a wait.
	errWaitAnswer = errors.New("dbrouter: not the answer to a wait")
)

// waitAnswer reads the answer to a wait: one column, its definition, one row with
// a number, and the OK packet that ends it. It returns the answer's length if the
// number says that the position is applied, 0 if there is more to come, and an
// error for any other answer.
func waitAnswer(b []byte) (int, error) {
	used := 0
	for i, part := range [...]func([]byte) bool{oneColumn, isDefinition, oneNumber, endsAnswer} {
		rest := b[used:]
		if len(rest) < 4 {
			return 0, nil
		}
		size := int(rest[0]) | int(rest[1])<<8 | int(rest[2])<<16
		if size == 0 || used+4+size > maxWaitAnswer {
			return 0, errWaitAnswer
		}
		if len(rest) < 4+size {
			return 0, nil
		}
		packet := rest[4 : 4+size]
		switch {
		case packet[0] == headError && size >= 3:
			return 0, errWaitRefused // errors of the server itself may have any number
		case rest[3] != byte(i+1) || !part(packet):
			return 0, errWaitAnswer
		case i == 2 && string(packet[1:]) != "0":
			return 0, errBehind
		}
		used += 4 + size
	}
	return used, nil
}

// oneColumn: MariaDB says in a second byte that the definition follows, to those
// who could do without.
func oneColumn(packet []byte) bool {
	return packet[0] == 1 && (len(packet) == 1 || len(packet) == 2 && packet[1] == 1)
}

// isDefinition: the catalog of all columns is "def".
func isDefinition(packet []byte) bool {
	return len(packet) > 4 && string(packet[:4]) == "\x03def"
}

// oneNumber: a text of at most 20 digits, or NULL.
func oneNumber(packet []byte) bool {
	if packet[0] == headInto {
		return len(packet) == 1
	}
	return packet[0] > 0 && packet[0] <= 20 && int(packet[0]) == len(packet)-1
}

// endsAnswer: an OK packet after which nothing else belongs to the answer.
func endsAnswer(packet []byte) bool {
	r := reader{b: packet[1:]}
	r.number()
	r.number()
	status := r.uint16()
	r.uint16()
	return packet[0] == headEOF && !r.bad && status&moreResults == 0
}
