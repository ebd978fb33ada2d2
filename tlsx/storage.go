package tlsx

import (
	"os"
	"path/filepath"
	"runtime"
)

// writeFile replaces a file as a whole: whoever reads it sees the old content
// or the new, also after a crash.
func writeFile(name string, data []byte, perm os.FileMode) error {
	return placeFile(name, data, perm, os.Rename)
}

// createFile makes a file that must not exist yet, with all its content at
// once. Of several that try, one succeeds and the others get fs.ErrExist: a
// hard link, unlike a rename, never replaces, and unlike O_EXCL never shows
// half a file.
func createFile(name string, data []byte, perm os.FileMode) error {
	return placeFile(name, data, perm, os.Link)
}

func placeFile(name string, data []byte, perm os.FileMode, place func(from, to string) error) error {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, "."+filepath.Base(name)+"-*") // with mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already after a rename
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(perm)
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	if err := place(f.Name(), name); err != nil {
		return err
	}
	return syncDir(dir)
}

// syncDir makes the names in a folder durable. Windows does not let programs do
// that, and does it by itself.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
