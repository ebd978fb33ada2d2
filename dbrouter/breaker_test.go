package dbrouter

import (
	"testing"
	"time"

	"github.com/palisade-go/palisade/dbrouter/mysqltest"
)

// TestEject: a replica that answers the looks at it, but loses the connections
// of reads, is left out for a while.
func TestEject(t *testing.T) {
	p := newPair(t)
	conf := p.config()
	conf.EjectAfter, conf.EjectFor = 3, 2*time.Second
	r, rec := open(t, conf)
	upReplicas(t, r, 1)
	stop := p.replica.Inject(mysqltest.Fault{Match: match(query), CutBefore: true, Times: -1})
	for i := range 3 {
		upReplicas(t, r, 1)
		if one[int](t, r.DB(), query); rec.last(t).Role != Primary || !rec.last(t).Retried {
			t.Errorf("%d: %+v", i, rec.last(t))
		}
	}
	if s := r.Status()[1]; s.State != Ejected {
		t.Errorf("%+v", s)
	}
	if one[int](t, r.DB(), query); rec.last(t).Retried {
		t.Errorf("an ejected replica is tried: %+v", rec.last(t))
	}
	stop()
	upReplicas(t, r, 1)
	if r.nodes()[1].warmSince.Load() == 0 {
		t.Error("no slow start after an ejection")
	}
	if one[int](t, r.DB(), query); rec.last(t).Role != Replica {
		t.Errorf("%+v", rec.last(t))
	}
}

// TestEjectAfterAFewInARow: failures with a success between them do not add up.
func TestEjectAfterAFewInARow(t *testing.T) {
	p := newPair(t)
	for _, after := range []int{3, -1} {
		conf := p.config()
		conf.CheckInterval, conf.OnStateChange, conf.EjectAfter = time.Hour, nil, after
		r, rec := open(t, conf)
		upReplicas(t, r, 1)
		for i := range 4 {
			remove := p.replica.Inject(mysqltest.Fault{Match: match(query), CutBefore: true, Times: 2})
			for range 2 {
				if one[int](t, r.DB(), query); rec.last(t).Role != Primary {
					t.Errorf("%d: %+v", i, rec.last(t))
				}
			}
			remove()
			if after > 0 {
				if one[int](t, r.DB(), query); rec.last(t).Role != Replica {
					t.Errorf("%d: %+v", i, rec.last(t))
				}
			}
		}
		if s := r.Status()[1]; s.State != Up {
			t.Errorf("EjectAfter %d: %+v", after, s)
		}
	}
}
