package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/causeway-project/causeway/integration/wait"
)

// A daemon is a child of this program, with its output in a file.
type daemon struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{} // closed when it has ended
	err  error         // of Wait; read after done
}

// tailSize of the logs in errors, in bytes.
const tailSize = 4000

// startDaemon runs argv; the log is appended to.
func startDaemon(log string, env []string, argv ...string) (*daemon, error) {
	out, err := os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return nil, err
	}
	d := &daemon{cmd: exec.Command(argv[0], argv[1:]...), log: log, done: make(chan struct{})}
	d.cmd.Stdout, d.cmd.Stderr = out, out
	d.cmd.Env = append(os.Environ(), env...)
	// What it starts gets no signal of ours.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = d.cmd.Start()
	if err := errors.Join(err, out.Close()); err != nil {
		return nil, err
	}
	go func() {
		d.err = d.cmd.Wait()
		close(d.done)
	}()
	return d, nil
}

func (d *daemon) running() bool {
	select {
	case <-d.done:
		return false
	default:
		return true
	}
}

func (d *daemon) signal(s syscall.Signal) error {
	err := d.cmd.Process.Signal(s)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// kill returns when it has ended.
func (d *daemon) kill() error {
	if err := d.signal(syscall.SIGKILL); err != nil {
		return err
	}
	<-d.done
	return nil
}

// stop asks it to end, and kills it, which is an error, after the grace.
func (d *daemon) stop(grace time.Duration) error {
	if err := d.signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-d.done:
		return nil
	case <-time.After(grace):
		return errors.Join(fmt.Errorf("%s did not end within %s of SIGTERM", d.name(), grace), d.kill())
	}
}

func (d *daemon) name() string { return filepath.Base(d.cmd.Path) }

// until waits for ready, and fails at once if the daemon ends.
func (d *daemon) until(ctx context.Context, ready func() (bool, error)) error {
	err := wait.For(ctx, func() (bool, error) {
		if !d.running() {
			return true, nil
		}
		return ready()
	})
	if err == nil && !d.running() {
		err = fmt.Errorf("it ended: %w", ended(d.err))
	}
	if err != nil {
		return fmt.Errorf("%s: %w; its log ends:\n%s", d.name(), err, tail(d.log))
	}
	return nil
}

func ended(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// tail of a file, for a person.
func tail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = f.Close() }()
	if info, err := f.Stat(); err == nil && info.Size() > tailSize {
		_, _ = f.Seek(-tailSize, io.SeekEnd)
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(data))
}
