//go:build unix

package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// process runs the program on its own; it listens once this returns.
func process(t *testing.T, out *os.File) (cmd *exec.Cmd, plain string) {
	t.Helper()
	port := freePort(t)
	plain = fmt.Sprintf("127.0.0.1:%d", port+1)
	cmd = exec.Command(os.Args[0], "-internal", "-listen", fmt.Sprintf("127.0.0.1:%d", port), "-http", plain, "-dir", site(t))
	cmd.Env = append(os.Environ(), "AUTOTLS_TEST_MAIN=1", "HOME="+t.TempDir(), "XDG_CONFIG_HOME="+t.TempDir())
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", plain)
		if err == nil {
			conn.Close()
			return cmd, plain
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// TestNobodyReadsTheLog: the program lives on, and ends as it should.
func TestNobodyReadsTheLog(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	cmd, _ := process(t, w)
	w.Close()
	// It has written by now that it is serving, or does so before it looks for a
	// signal.
	cmd.Process.Signal(syscall.SIGTERM)
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ends with %v", err)
	}
}

// TestSignals: the end of the terminal is not that of the program, the first
// signal to end leaves it to what is under way, and the second does not.
func TestSignals(t *testing.T) {
	cmd, plain := process(t, nil)
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	cmd.Process.Signal(syscall.SIGHUP)
	conn, err := net.Dial("tcp", plain)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// Under way until the rest of the body comes.
	io.WriteString(conn, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n")
	answer := make([]byte, len("HTTP/1.1 308"))
	if _, err := io.ReadFull(conn, answer); err != nil || !strings.HasSuffix(string(answer), fmt.Sprint(http.StatusPermanentRedirect)) {
		t.Fatalf("%q, %v", answer, err)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	for range 3000 { // until it does not listen any more
		c, err := net.Dial("tcp", plain)
		if err != nil {
			break
		}
		c.Close()
		time.Sleep(10 * time.Millisecond)
	}
	if len(exited) > 0 {
		t.Fatalf("it does not drain: %v", <-exited)
	}
	for end := time.Now().Add(drain / 2); len(exited) == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it drains on after a second signal")
		}
		cmd.Process.Signal(syscall.SIGTERM) // again, as the first may come too soon
	}
	if err := <-exited; cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("it ends with %v, want the signal", err)
	}
}
