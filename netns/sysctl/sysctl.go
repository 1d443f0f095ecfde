// Package sysctl sets what is below /proc/sys/net, and compares it.
package sysctl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// A Setting is one file below /proc/sys/net, which shows the namespace of the
// thread that opens it.
type Setting struct {
	Path     string // below /proc/sys/net
	Value    string
	Optional bool // a kernel without the family has none, and needs none
}

func (s Setting) file() string { return "/proc/sys/net/" + s.Path }

// Drift says, in words, which settings are not as wanted.
func Drift(want []Setting) ([]string, error) {
	var drift []string
	for _, s := range want {
		got, err := s.read()
		if err != nil {
			return nil, err
		}
		if got != s.Value {
			drift = append(drift, fmt.Sprintf("sysctl net/%s is %s, not %s", s.Path, got, s.Value))
		}
	}
	return drift, nil
}

// read returns the value, or the wanted one where the file may be missing.
func (s Setting) read() (string, error) {
	b, err := os.ReadFile(s.file())
	if s.Optional && errors.Is(err, fs.ErrNotExist) {
		return s.Value, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return "missing", nil
	}
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(b)), nil
}

// Write writes those that differ: writing the same value has effects
// too, for example on forwarding.
func Write(want []Setting) error {
	for _, s := range want {
		got, err := s.read()
		if err != nil {
			return err
		}
		if got == s.Value {
			continue
		}
		// No O_CREATE: there is nothing to create in /proc.
		f, err := os.OpenFile(s.file(), os.O_WRONLY, 0)
		if err != nil {
			return fmt.Errorf("set sysctl: %w", err)
		}
		_, err = f.WriteString(s.Value)
		f.Close()
		if err != nil {
			return fmt.Errorf("set sysctl %s: %w", s.Path, err)
		}
	}
	return nil
}
