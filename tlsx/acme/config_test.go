package acme

import (
	"bytes"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

func TestNewListsEveryMistake(t *testing.T) {
	_, err := New(Config{Names: []string{"*.a.test", "*.192.0.2.1", "fe80::1%eth0", "a b", ""}, Directory: "http://a.test/dir", HTTPPort: -1, TLSALPNPort: 65536, DisableHTTPChallenge: true, DisableTLSALPNChallenge: true})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{`"*.a.test"`, `"*.192.0.2.1"`, `"fe80::1%eth0"`, `"a b"`, `has ""`, "Config.Storage", "Config.Directory", "-1 and 65536", "disables both"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not mention %q:\n%v", want, err)
		}
	}
	if _, err := New(Config{Storage: &certmagic.FileStorage{}}); err == nil {
		t.Error("no names were accepted")
	}
}

func TestNamesAreNormal(t *testing.T) {
	names := []string{"B.test.", "a.test", "b.test", "::ffff:192.0.2.1"}
	c := Config{Names: names, Storage: &certmagic.FileStorage{}}
	if err := c.normalise(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(c.Names, []string{"192.0.2.1", "a.test", "b.test"}) || c.Directory != certmagic.LetsEncryptProductionCA {
		t.Errorf("names %q, directory %q", c.Names, c.Directory)
	}
	if names[0] != "B.test." {
		t.Error("the caller's slice was changed")
	}
}

func FuzzCertName(f *testing.F) {
	for _, s := range []string{"A.test.", "192.0.2.1", "a..b", "x-1.y", "*.a", "*.::1", "::1%x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, ok := certName(s)
		if !ok {
			if name != "" {
				t.Errorf("%q: refused, but %q", s, name)
			}
			return
		}
		if again, ok := certName(name); !ok || again != name {
			t.Errorf("%q → %q → %q", s, name, again)
		}
	})
}

func TestEventKind(t *testing.T) {
	for k, want := range map[EventKind]string{Obtained: "obtained", Renewed: "renewed", Failed: "failed", Expiring: "expiring", Revoked: "revoked", 9: "EventKind(9)"} {
		if k.String() != want {
			t.Errorf("%d: %q, want %q", k, k, want)
		}
	}
}

func TestLogBridge(t *testing.T) {
	var out bytes.Buffer
	handler := slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
		if a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}})
	slog.New(quietHandler{handler}).With("with", "w").WithGroup("g").Error("on the way", "a", 1)
	slog.New(quietHandler{handler}).Debug("dropped")
	log := zapLogger(slog.New(handler)).With(zap.String("with", "w"))
	log.Debug("dropped")
	log.Info("progress", zap.Int("b", 2), zap.String("a", "1"))
	log.Warn("careful")
	log.Error("broken", zap.Error(errors.New("why")))
	want := `level=DEBUG msg="acme: on the way" with=w g.a=1
level=DEBUG msg="acme: progress" with=w a=1 b=2
level=WARN msg="acme: careful" with=w
level=ERROR msg="acme: broken" with=w error=why
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", &out, want)
	}
}
