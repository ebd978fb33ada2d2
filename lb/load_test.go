package lb

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestParseLoad(t *testing.T) {
	for s, want := range map[string]Load{
		"TEXT named_metrics.in_flight=3,named_metrics.latency_ms=12.5":             {3, 12500 * time.Microsecond},
		"TEXT cpu_utilization=0.3, named_metrics.in_flight=4 ,mem_utilization=":    {InFlight: 4},
		"TEXT named_metrics.in_flight=0":                                           {},
		"TEXT named_metrics.in_flight=1,named_metrics.latency_ms=\t1.0000006 ":     {1, 1000001 * time.Nanosecond},
		"TEXT named_metrics.in_flight=1e9":                                         {InFlight: 1e9},
		"TEXT named_metrics.in_flight=5," + strings.Repeat("a=1,", 1015) + "b=222": {InFlight: 5},
	} {
		if got, err := ParseLoad(s); err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", s, got, err, want)
		}
	}
	for _, s := range []string{
		"", "TEXT ", "named_metrics.in_flight=3", "JSON {}", "TEXT cpu_utilization=1", "TEXT named_metrics.in_flight",
		"TEXT named_metrics.in_flight=-1", "TEXT named_metrics.in_flight=NaN", "TEXT named_metrics.in_flight=1e300",
		"TEXT named_metrics.in_flight=1000000001", "TEXT named_metrics.latency_ms=3", "TEXT named_metrics.in_flight=1,x",
		"TEXT named_metrics.in_flight=5," + strings.Repeat("a=1,", 1015) + "b=2222",
		"TEXT named_metrics.in_flight=1,named_metrics.latency_ms=Inf",
		"TEXT named_metrics.in_flight=1," + strings.Repeat("a=1,", maxLoadHeader),
	} {
		if got, err := ParseLoad(s); err == nil {
			t.Errorf("%q was taken, as %+v", s, got)
		}
	}
}

func TestReportedLoad(t *testing.T) {
	want := Load{InFlight: 2, Latency: 3 * time.Millisecond}
	h := http.Header{}
	if l := reportedLoad(h); l != nil {
		t.Errorf("no field: %+v", l)
	}
	h.Set(LoadHeader, want.String())
	if l := reportedLoad(h); l == nil || *l != want {
		t.Errorf("got %+v, want %+v", l, want)
	}
	h.Add(LoadHeader, Load{InFlight: 9}.String())
	if l := reportedLoad(h); l == nil || *l != want {
		t.Errorf("got %+v of two, want the first, %+v", l, want)
	}
	if got, want := (Load{InFlight: 2, Latency: 1500 * time.Microsecond}).String(), "TEXT named_metrics.in_flight=2,named_metrics.latency_ms=1.5"; got != want {
		t.Errorf("written %q, want %q", got, want)
	}
	h.Set(LoadHeader, "BIN AAAA")
	if l := reportedLoad(h); l != nil {
		t.Errorf("another form: %+v", l)
	}
}

// The proxy tells the strategy what the response said, and when it began.
func TestProxyReportsLoadAndWait(t *testing.T) {
	w := new(watcher)
	want := Load{InFlight: 7, Latency: 2 * time.Millisecond}
	const pause = 30 * time.Millisecond
	headCame := make(chan struct{}) // to the client
	r := newRig(t, PoolConfig{Strategy: w}, ProxyConfig{}, nil, http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set(LoadHeader, want.String())
		http.NewResponseController(rw).Flush()
		<-headCame
		time.Sleep(pause)
		rw.Write([]byte("end"))
	}))
	res, err := http.Get("http://" + r.addr)
	if err != nil {
		t.Fatal(err)
	}
	close(headCame)
	io.Copy(io.Discard, res.Body)
	res.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	r.event()
	o := w.done[0]
	if o.Load == nil || *o.Load != want {
		t.Errorf("the strategy was told of the load %+v, want %+v", o.Load, want)
	}
	if o.Wait <= 0 || o.Wait > o.Duration-pause/2 {
		t.Errorf("the head came after %v of %v, want it long before the end", o.Wait, o.Duration)
	}
}

func FuzzParseLoad(f *testing.F) {
	f.Add("TEXT named_metrics.in_flight=3,named_metrics.latency_ms=12.5")
	f.Add("TEXT a=b,named_metrics.in_flight=1e3")
	f.Fuzz(func(t *testing.T, s string) {
		l, err := ParseLoad(s)
		if err != nil {
			return
		}
		if l.InFlight < 0 || l.Latency < 0 {
			t.Fatalf("%q gives %+v", s, l)
		}
		if again, err := ParseLoad(l.String()); err != nil || again != l {
			t.Errorf("%q gives %+v, written and read again %+v, %v", s, l, again, err)
		}
	})
}
