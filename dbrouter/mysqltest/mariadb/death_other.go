//go:build !linux

package mariadb

import "syscall"

// dieWithParent needs Linux; elsewhere a server outlives a parent that is killed.
func dieWithParent() *syscall.SysProcAttr { return nil }
