package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/agent/crashpoint"
)

// agentFD is the launcher's connection to the agent that forked it.
const agentFD = 3

// ownPIDsFlag makes a launcher that systemd runs start the one that becomes
// the program. One that an agent forks is in its namespace already.
const ownPIDsFlag = "--own-pids"

// Launch is causeway-launch: it makes of this process what the Spec describes
// that it reads from the agent, and answers there. The connection is descriptor
// 3, or is made to the socket that args name. It returns
// only where it failed, and has said so there; nil where another launcher goes
// on in its place.
func Launch(args []string) error {
	// Nothing that the agent left open by mistake gets any further; nor does
	// the connection, whose end is the answer that exec succeeded.
	if err := unix.CloseRange(agentFD, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return os.NewSyscallError("close_range", err)
	}
	if len(args) > 0 && args[0] == holdFlag {
		return hold()
	}
	if len(args) > 0 && args[0] == ownPIDsFlag {
		return relaunch(args[1:])
	}
	// Namespaces and capabilities belong to a thread, and exec keeps those of
	// the thread that calls it. It ends all others.
	runtime.LockOSThread()
	if len(args) == 0 {
		return launch(os.NewFile(agentFD, "agent"), nil)
	}
	agent, err := call(args[0])
	if err != nil {
		return err
	}
	// Opened while the host's paths are there.
	n, err := openNotice()
	if err != nil {
		return err
	}
	return launch(agent, n)
}

func launch(agent *os.File, n *notice) error {
	err := become(agent, n)
	_, _ = io.WriteString(agent, err.Error())
	return err
}

func become(agent io.ReadWriter, n *notice) error {
	var s order
	orders := json.NewDecoder(agent)
	if err := orders.Decode(&s); err != nil {
		return fmt.Errorf("read specification: %w", err)
	}
	if err := takeLock(s.Dir); err != nil {
		if errors.Is(err, errRunning) {
			return errRunning
		}
		return fmt.Errorf("lock: %w", err)
	}
	crashpoint.Hit(crashpoint.LaunchLocked)
	// A program that closes what it does not know gives its lock away.
	id, _, err := readIdentity(s.Dir)
	if err != nil {
		return fmt.Errorf("read identity: %w", err)
	}
	if alive, err := id.running(); err != nil || alive {
		return errors.Join(err, errRunning)
	}
	pid, err := ownPID()
	if err != nil {
		return fmt.Errorf("identify: %w", err)
	}
	if id, err = identify(pid); err != nil {
		return fmt.Errorf("identify: %w", err)
	}
	f, err := writeIdentity(s.Dir, id)
	if err != nil {
		return fmt.Errorf("write identity: %w", err)
	}
	crashpoint.Hit(crashpoint.LaunchIdentified)
	if err := confine(&s.Spec); err != nil {
		return err
	}
	crashpoint.Hit(crashpoint.LaunchConfined)
	if s.Waits {
		if err := orders.Decode(new(bool)); err != nil {
			return fmt.Errorf("wait for the agent: %w", err)
		}
	}
	if _, err := io.WriteString(agent, ready); err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	if err := n.send("READY=1"); err != nil {
		return fmt.Errorf("tell systemd: %w", err)
	}
	err = unix.Exec(s.Path, append([]string{s.Path}, s.Args...), s.Env)
	runtime.KeepAlive(f) // locked until exec closes it
	return &os.PathError{Op: "exec", Path: s.Path, Err: err}
}

// confine gives the thread what s asks for and takes the rest. Each step has
// to come before the one that takes away what it needs: files and namespaces
// by the host's paths before the jail, capabilities last.
func confine(s *Spec) error {
	unix.Umask(0o022)
	output, err := openOutput(s.Dir, s.Output)
	if err != nil {
		return fmt.Errorf("output: %w", err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("input: %w", err)
	}
	if s.NetNS != "" {
		if err := join(s.NetNS); err != nil {
			return fmt.Errorf("network namespace: %w", err)
		}
	}
	if s.Limits.Files > 0 {
		if err := limitFiles(s.Limits.Files); err != nil {
			return fmt.Errorf("limit of open files: %w", err)
		}
	}
	if s.IDMap != nil {
		if err := s.IDMap.show(); err != nil {
			return fmt.Errorf(idMapFailed+"%w", err)
		}
	}
	if s.OOM != 0 {
		err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(s.OOM)), 0)
		if err != nil && !errors.Is(err, os.ErrPermission) {
			return fmt.Errorf("out-of-memory score: %w", err)
		}
	}
	if s.Root != nil {
		if err := s.Root.enter(); err != nil {
			return fmt.Errorf("root: %w", err)
		}
	}
	for i, f := range []*os.File{null, output, output} {
		if err := unix.Dup3(int(f.Fd()), i, 0); err != nil {
			return os.NewSyscallError("dup3", err)
		}
	}
	if err := keep(s.Caps); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	return nil
}

func join(netns string) error {
	f, err := os.Open(netns)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		return &os.PathError{Op: "setns", Path: netns, Err: err}
	}
	return nil
}

// limitFiles sets the limit, or as much of it as the host allows: more than
// the hard limit takes CAP_SYS_RESOURCE, and fs.nr_open bounds even that.
func limitFiles(n uint64) error {
	err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: n})
	if err != unix.EPERM {
		return os.NewSyscallError("setrlimit", err)
	}
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &now); err != nil {
		return os.NewSyscallError("getrlimit", err)
	}
	n = min(n, now.Max)
	return os.NewSyscallError("setrlimit", unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: n}))
}
