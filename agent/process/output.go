package process

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

const (
	outputFile = "output"
	outputMax  = 1 << 20 // bytes
)

// openOutput opens the file for standard output and error. One that an
// earlier process made long begins anew.
func openOutput(dir, name string) (*os.File, error) {
	if name == "" {
		name = outputFile
	}
	if name != filepath.Base(name) || name == "." || name == ".." {
		return nil, errors.New("output is not the name of a file: " + name)
	}
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() > outputMax {
		err = f.Truncate(0)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Tail returns the last n bytes of what the process printed to "output", for a
// person: whole characters, without white space around them, empty where there
// is none.
func Tail(dir string, n int) string {
	f, err := os.Open(filepath.Join(dir, outputFile))
	if err != nil {
		return ""
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || n <= 0 {
		return ""
	}
	from := max(0, info.Size()-int64(n))
	b := make([]byte, info.Size()-from)
	got, _ := f.ReadAt(b, from) // short where it was cut meanwhile
	b = b[:got]
	for from > 0 && len(b) > 0 && !utf8.RuneStart(b[0]) {
		b = b[1:]
	}
	return strings.TrimSpace(strings.ToValidUTF8(string(b), "\uFFFD"))
}
