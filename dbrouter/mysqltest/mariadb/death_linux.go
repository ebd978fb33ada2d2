//go:build linux

package mariadb

import "syscall"

// dieWithParent ends a server whose parent was killed and could not close it.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
