package dbrouter

import (
	"encoding/json"
	"testing"
	"time"
)

func TestNodeStatusJSON(t *testing.T) {
	for role := RoleUnknown; role <= Replica; role++ {
		for state := StateUnknown; state <= Ejected; state++ {
			in := NodeStatus{Name: "a", Addr: "h:1", Role: role, State: state, Lag: time.Second, LagKnown: true, LastError: "x", Connections: 2}
			data, err := json.Marshal(in)
			if err != nil {
				t.Fatal(err)
			}
			var out NodeStatus
			if err := json.Unmarshal(data, &out); err != nil || out != in {
				t.Errorf("%s came back as %+v, %v", data, out, err)
			}
		}
	}
	for _, bad := range []string{`{"role":"master"}`, `{"state":"Up"}`, `{"role":""}`} {
		if err := json.Unmarshal([]byte(bad), new(NodeStatus)); err == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}
