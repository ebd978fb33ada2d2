package lb

import (
	"errors"
	"fmt"
	"sync/atomic"
)

// RetryBudget bounds the retries of a [Proxy] by its requests, so that a failure
// of all backends does not multiply the load on them. Its zero value is usable.
//
// A retry after no connection could be made is given back if it succeeds: the
// request has been no work to anyone but the backend that answered it. So the
// loss of some of the backends never exhausts the budget, and the loss of all
// does at once: a request that is not answered earns only half, so that what was
// saved up before makes no difference for long. From some 1,000 requests on an
// outage makes no more attempts than the Percent on top of one for each.
type RetryBudget struct {
	// Percent is how many retries 100 requests earn, 1000 at most: half of it when
	// they come, and half when they are answered, with a status that is none of
	// RetryStatus. 0 means 20, a negative number that retries are not bounded.
	Percent int
	// Reserve is how many retries can be saved up, a million at most; it is
	// more than are needed at once when a backend dies with requests in flight. A
	// new Proxy has a tenth of it. 0 means 100.
	Reserve int
}

func (r RetryBudget) validate() error {
	var errs []error
	if r.Percent > 1000 {
		errs = append(errs, fmt.Errorf("lb: RetryBudget.Percent is %d, want 1000 at most", r.Percent))
	}
	if r.Reserve < 0 || r.Reserve > 1_000_000 {
		errs = append(errs, fmt.Errorf("lb: RetryBudget.Reserve is %d, want 0 for the default, or up to 1000000", r.Reserve))
	}
	return errors.Join(errs...)
}

// retryCost is the price of a retry. A request earns twice the Percent in all, in
// two parts.
const retryCost = 200

// budget is what a RetryBudget has at the moment. The zero value spends without
// bound.
type budget struct {
	bounded     bool
	earns, most int64
	saved       atomic.Int64
}

func (b *budget) set(r RetryBudget) {
	if r.Percent < 0 {
		return
	}
	setDefault(&r.Percent, 20)
	setDefault(&r.Reserve, 100)
	b.bounded, b.earns, b.most = true, int64(r.Percent), int64(r.Reserve)*retryCost
	b.saved.Store(b.most / 10)
}

// earn is called for each request when it begins, and again when it is answered.
func (b *budget) earn() { b.add(b.earns) }

// giveBack undoes a spend.
func (b *budget) giveBack() { b.add(retryCost) }

func (b *budget) add(n int64) {
	for {
		// A full budget, which is the rule, is not written to.
		old := b.saved.Load()
		sum := min(old+n, b.most)
		if sum == old || b.saved.CompareAndSwap(old, sum) {
			return
		}
	}
}

// spend says whether there may be a retry.
func (b *budget) spend() bool {
	for b.bounded {
		old := b.saved.Load()
		if old < retryCost {
			return false
		}
		if b.saved.CompareAndSwap(old, old-retryCost) {
			return true
		}
	}
	return true
}
