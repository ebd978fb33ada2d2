package fwtest_test

import (
	"fmt"

	"github.com/palisade-go/palisade/firewall"
	"github.com/palisade-go/palisade/firewall/fwtest"
)

// A filter that reads the port at a fixed place, and so finds one in later
// fragments too.
func ExampleCompare() {
	policy, err := firewall.ParsePolicy("drop telnet if protocol tcp and destination-port 23\ndefault accept")
	if err != nil {
		fmt.Println(err)
		return
	}
	fw, err := firewall.New(firewall.Config{Policy: policy})
	if err != nil {
		fmt.Println(err)
		return
	}
	filter := func(frame []byte) firewall.Verdict {
		if len(frame) < 38 || frame[23] == firewall.ProtocolTCP && frame[36] == 0 && frame[37] == 23 {
			return firewall.Drop
		}
		return firewall.Accept
	}
	telnet := fwtest.Frame{Protocol: firewall.ProtocolTCP, DestinationPort: 23, Flags: firewall.SYN}
	later := fwtest.Frame{Protocol: firewall.ProtocolTCP, Offset: 2, Payload: []byte("\x00\x17\x00\x17")}
	report := fwtest.Compare(fw, firewall.NewState, filter, []fwtest.Case{
		{Name: "telnet", Frame: telnet.Bytes()},
		{Name: "later fragment", Frame: later.Bytes()},
	})
	for _, d := range report.Unsound {
		fmt.Println(d.Name, "is refused by", d.Got)
	}
	// Output: later fragment is refused by drop
}
