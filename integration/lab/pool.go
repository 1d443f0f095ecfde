package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// A Pool is a file system of its own for shares: btrfs on a loop file.
type Pool struct {
	Dir  string
	home string
}

// NewPool makes one of that many MiB, at least 128.
func NewPool(ctx context.Context, mebibytes int64) (*Pool, error) {
	home, err := TempDir()
	if err != nil {
		return nil, err
	}
	p := &Pool{Dir: filepath.Join(home, "pool"), home: home}
	if err := p.make(ctx, mebibytes); err != nil {
		return nil, errors.Join(fmt.Errorf("make pool: %w", err), os.RemoveAll(home))
	}
	return p, nil
}

func (p *Pool) make(ctx context.Context, mebibytes int64) error {
	disk := filepath.Join(p.home, "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(disk, mebibytes<<20); err != nil {
		return err
	}
	if _, err := command(ctx, "mkfs.btrfs", "--quiet", "--nodesize", strconv.Itoa(16<<10), disk); err != nil {
		return err
	}
	if err := os.Mkdir(p.Dir, 0o755); err != nil {
		return err
	}
	// mount(8) sets autoclear: the device goes with the last mount.
	_, err := command(ctx, "mount", "-t", "btrfs", "-o", "loop", disk, p.Dir)
	return err
}

// Close unmounts and removes it.
func (p *Pool) Close(ctx context.Context) error {
	if _, err := command(ctx, "umount", p.Dir); err != nil {
		return err
	}
	return os.RemoveAll(p.home)
}
