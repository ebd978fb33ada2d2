// Package fwtest checks that a depth at which a firewall policy is enforced reads
// packets as package firewall does and decides as it does: a packet filter in a
// kernel, say, or your own policy on your own traffic.
//
//   - [Frame] builds an Ethernet frame, also a wrong one; [Corpus] is a list of
//     named frames on which packet filters have gone wrong, and [RandomFrame]
//     makes more.
//   - [RandomPolicy] makes policies whose rules often match those frames.
//   - [Compare] runs a depth, any function from a frame to a verdict, beside
//     [firewall.Firewall.DecideFrame] and reports where they differ.
//
// Two things are to be shown of a depth. It is sound if it refuses nothing that
// the reference accepts, even where the reference cannot decide; it is equal if
// it gives the same verdict wherever the reference can. What a depth does not
// see of a packet, such as VLAN tags that were taken off before, is to be left
// out of the frames it is compared on.
//
// The package keeps no state. It is for tests, and does not check its arguments
// beyond what it needs not to panic.
//
//	rng := rand.New(rand.NewPCG(1, 2))
//	for range 1000 {
//		fw, err := firewall.New(firewall.Config{Policy: fwtest.RandomPolicy(rng)})
//		if err != nil {
//			t.Fatal(err)
//		}
//		report := fwtest.Compare(fw, firewall.NewState, depth, fwtest.Corpus())
//		if err := report.Err(); err != nil {
//			t.Error(err)
//		}
//	}
package fwtest
