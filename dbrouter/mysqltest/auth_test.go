package mysqltest

import (
	"crypto/tls"
	"strings"
	"testing"

	"github.com/go-sql-driver/mysql"

	"github.com/palisade-go/palisade/internal/testcert"
)

func serverTLS(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	ca := testcert.NewCA(t)
	cert := ca.Issue(testcert.Leaf{Names: []string{"127.0.0.1"}})
	return &tls.Config{Certificates: []tls.Certificate{cert}}, &tls.Config{RootCAs: ca.Pool(), ServerName: "127.0.0.1"}
}

// TestLogin: each way to prove a password, plain and in TLS; twice, since the
// second login with caching_sha2_password is another exchange.
func TestLogin(t *testing.T) {
	server, client := serverTLS(t)
	for _, plugin := range []string{"mysql_native_password", "caching_sha2_password"} {
		for _, encrypted := range []bool{false, true} {
			name := plugin
			conf := Config{AuthPlugin: plugin, Users: map[string]string{"a": "secret", "none": ""}}
			if encrypted {
				name, conf.TLS = name+" in TLS", server
			}
			s := start(t, conf)
			login := func(user, password string) error {
				return open(t, s, func(c *mysql.Config) {
					c.User, c.Passwd = user, password
					if encrypted {
						c.TLS = client
					}
				}).PingContext(t.Context())
			}
			for range 2 {
				for _, good := range [][2]string{{"a", "secret"}, {"none", ""}} {
					if err := login(good[0], good[1]); err != nil {
						t.Errorf("%s: %v: %v", name, good, err)
					}
				}
				for _, bad := range [][2]string{{"a", "Secret"}, {"a", ""}, {"none", "x"}, {"nobody", "secret"}, {"nobody", ""}} {
					if err := login(bad[0], bad[1]); err == nil || !strings.Contains(err.Error(), "1045") {
						t.Errorf("%s: %v: %v", name, bad, err)
					}
				}
			}
		}
	}
}

// TestOtherMethodFirst: a client that begins with another method is told to
// switch.
func TestOtherMethodFirst(t *testing.T) {
	s := start(t, Config{AuthPlugin: cachingPassword})
	c, _ := dialRaw(t, s)
	c.send(loginPacket(rawCaps|capPluginAuth, []byte("x"), nativePassword)...)
	if b := c.receive(); !strings.HasPrefix(string(b), "\xfe"+cachingPassword+"\x00") {
		t.Errorf("%q", b)
	}
}

func TestTLSIsOffered(t *testing.T) {
	_, client := serverTLS(t)
	s := start(t, Config{})
	if err := open(t, s, func(c *mysql.Config) { c.TLS = client }).PingContext(t.Context()); err == nil {
		t.Error("TLS with a server that has none")
	}
	_, err := New(Config{TLS: new(tls.Config), AuthPlugin: "sha256_password"})
	for _, want := range []string{"Config.TLS", "Config.AuthPlugin"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s in it", err, want)
		}
	}
}
