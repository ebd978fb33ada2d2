package main

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
)

// TestMapIsPasted gives what the map prints to a shell, with a curl that shows its
// arguments, one a line.
func TestMapIsPasted(t *testing.T) {
	for _, dir := range []string{"/tmp/state", "/tmp/it's a $HOME;*"} {
		m := &serviceMap{ca: dir + "/root.pem", cert: dir + "/visitor.pem", key: dir + "/visitor.key"}
		m.addEdge(&config{https: "[::1]:8443", role: roleAll})
		var out bytes.Buffer
		m.print(&out)
		_, lines, _ := strings.Cut(out.String(), "Try:\n")
		lines, _, _ = strings.Cut(lines, "\n\n")
		got, err := exec.Command("sh", "-c", `curl() { printf '%s\n' "$@"; }`+"\n"+lines).CombinedOutput()
		want := strings.Join([]string{
			"--cacert", m.ca, "https://[::1]:8443/api/notes",
			"--cacert", m.ca, "-H", "Content-Type: application/json", "-d", `{"text":"hello"}`, "https://[::1]:8443/api/notes",
			"--cacert", m.ca, "--cert", m.cert, "--key", m.key, "https://[::1]:8443/", "",
		}, "\n")
		if err != nil || string(got) != want {
			t.Errorf("%s: %v, the shell got\n%swant\n%s", dir, err, got, want)
		}
	}
}
