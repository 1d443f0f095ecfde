// Package keeper keeps QEMU's vhost-user connection of one virtiofs device, so
// that the death of its virtiofsd does not hang the guest.
//
// QEMU (7.2, and later ones with virtiofs) never connects to a virtiofsd again.
// Without a keeper, a request that is in flight when virtiofsd dies is never
// answered: its task in the guest waits for ever, and an unplug waits for the
// request, in the guest's only worker for hot-plug. Only a reset helps.
//
//	QEMU  <-- messages, descriptors -->  keeper  <-- the same -->  virtiofsd
//	  `------ the queues, in the guest's memory: the keeper is not in the way ---'
//
// The keeper starts virtiofsd, passes messages on as they are, and records what
// they set. When virtiofsd has ended the keeper answers in its place: all that
// is in flight, and all that comes, with ENOTCONN. So every task of the guest
// gets an error at once, and the device can be unplugged. What was open is lost,
// as it is in any case: a fresh virtiofsd knows none of it. So none is started
// behind the same device; the agent takes the device out and brings a fresh one.
//
// The data never passes through here. While virtiofsd lives the keeper sleeps.
//
//	starting --virtiofsd speaks--> listening --QEMU connects--> passing on
//	   |                              |                          |      |
//	   `-- virtiofsd ends: exit 1 ----'        QEMU goes: exit 0 |      | virtiofsd ends
//	                                                             |      v
//	                                      exit 0 <--QEMU goes-- standing in
//
// Where the requests in flight cannot be known (ErrBlind in package vhostuser)
// it ends, which is what QEMU would have seen without it.
package keeper

import (
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/causeway-project/causeway/virtiofs/peer"
	"github.com/causeway-project/causeway/virtiofs/vhostuser"
)

// Options of a keeper.
type Options struct {
	Dir      string   // required: the run directory, where the report goes
	Socket   string   // required: where QEMU connects, once
	Program  []string // required: virtiofsd and its arguments, without those of the socket
	Inflight bool     // it notes its requests in flight when told to, as QEMU's does; else it must answer them in order

	// OwnUsers gives virtiofsd a user namespace of its own, with all ids as they
	// are: its capabilities then count nothing on the host. Those of the host let
	// it take, by chown, what lies in the share and has an id that an idmapped
	// mount does not map (chown_ok in the kernel's fs/attr.c).
	OwnUsers bool
}

// childFD is the listening socket in virtiofsd.
const childFD = 3

// leaving is how long a virtiofsd may take to end when QEMU has gone, before it
// is killed.
const leaving = 5 * time.Second

// A keeper is one keeper at work.
type keeper struct {
	Options
	state    vhostuser.State
	inflight *vhostuser.Inflight
	blind    error // why the state is not to be relied on

	child    int // pid, of a process group of its own
	pidfd    int
	replaced atomic.Bool
	daemon   *vhostuser.Conn
	qemu     *vhostuser.Conn
	pending  *vhostuser.Message // a request whose reply QEMU waits for
}

// Run keeps until QEMU goes. It takes the whole process: call it from main.
func Run(o Options) error {
	// The kernel kills virtiofsd when the thread ends that started it.
	runtime.LockOSThread()
	k := &keeper{Options: o}
	if err := k.start(); err != nil {
		return fmt.Errorf("start virtiofsd: %w", err)
	}
	if err := k.greet(); err != nil {
		k.kill()
		return fmt.Errorf("start virtiofsd: %w", errors.Join(err, k.ended()))
	}
	if err := (Report{Keeper: os.Getpid(), PID: k.child}).write(o.Dir); err != nil {
		return err
	}
	if err := k.accept(); err != nil {
		return errors.Join(err, k.unreport())
	}
	ended, err := k.pass()
	if err != nil || !ended {
		return errors.Join(err, k.leave())
	}
	return k.standIn()
}

// start starts virtiofsd with a socket that has no name when it begins, and
// connects to it.
func (k *keeper) start() error {
	// What its processes leave behind becomes our child, so that we know when
	// all have ended: with a sandbox virtiofsd is two.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl PR_SET_CHILD_SUBREAPER", err)
	}
	path := filepath.Join(k.Dir, "own")
	listener, err := listen(path)
	if err != nil {
		return err
	}
	defer unix.Close(listener)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	if err = errors.Join(os.NewSyscallError("connect", err), os.Remove(path)); err != nil {
		return err
	}
	k.daemon = &vhostuser.Conn{FD: fd}
	k.pidfd = -1
	// os.StartProcess would first try on a child of its own whether the kernel has
	// pidfds.
	k.child, err = syscall.ForkExec(k.Program[0], append(k.Program, fmt.Sprintf("--fd=%d", childFD)), &syscall.ProcAttr{
		Env:   os.Environ(),
		Files: []uintptr{0, 1, 2, uintptr(listener)},
		Sys:   k.attributes(),
	})
	if err != nil {
		return &os.PathError{Op: "exec", Path: k.Program[0], Err: err}
	}
	k.preferChild()
	again := make(chan os.Signal, 1)
	signal.Notify(again, syscall.SIGUSR1)
	go func() { // it lives as long as the process
		for range again {
			k.replaced.Store(true)
			k.kill()
		}
	}()
	return nil
}

// attributes of virtiofsd's process.
func (k *keeper) attributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL, PidFD: &k.pidfd}
	if k.OwnUsers {
		all := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: math.MaxUint32}}
		a.Cloneflags, a.UidMappings, a.GidMappings, a.GidMappingsEnableSetgroups = syscall.CLONE_NEWUSER, all, all, true
	}
	return a
}

// preferChild has the kernel, out of memory, kill virtiofsd rather than us, who
// would take it along and leave nobody to answer. Without, it is as before.
func (k *keeper) preferChild() {
	text, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return
	}
	if own, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
		_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", k.child), []byte(strconv.Itoa(min(own+10, 1000))), 0)
	}
}

func listen(path string) (int, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return -1, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	old := unix.Umask(0o077)
	err = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
	unix.Umask(old)
	if err == nil {
		err = unix.Listen(fd, 1)
	}
	if err != nil {
		unix.Close(fd)
		return -1, &os.PathError{Op: "listen", Path: path, Err: err}
	}
	return fd, nil
}

// greet waits until virtiofsd serves: what it cannot do, as to enter its
// sandbox, is then known before QEMU waits for it.
func (k *keeper) greet() error {
	if err := k.daemon.Write(vhostuser.Ask(vhostuser.GetFeatures)); err != nil {
		return err
	}
	m, err := k.daemon.Read()
	if err != nil {
		return err
	}
	k.state.Note(m)
	m.Close()
	return nil
}

// mostStrangers is how many are told of: the log is on a tmpfs.
const mostStrangers = 10

// accept waits for QEMU's one connection. Whoever else comes gets nothing, not
// even an answer: see package peer.
func (k *keeper) accept() error {
	listener, err := listen(k.Socket)
	if err != nil {
		return err
	}
	defer unix.Close(listener)
	for strangers := 0; ; {
		ready, err := poll(listener, k.daemon.FD, k.pidfd)
		if err != nil {
			return err
		}
		if ready[1] || ready[2] {
			k.kill()
			return fmt.Errorf("virtiofsd: %w", k.ended())
		}
		fd, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.ECONNABORTED) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("accept", err)
		}
		if err := peer.Check(k.Socket, fd); err != nil {
			if strangers++; strangers <= mostStrangers {
				fmt.Fprintln(os.Stderr, "causeway-keeper:", err)
			}
			unix.Close(fd)
			continue
		}
		k.qemu = &vhostuser.Conn{FD: fd}
		return nil
	}
}

// pass passes messages on until QEMU goes, or virtiofsd: true.
func (k *keeper) pass() (ended bool, err error) {
	if k.Inflight {
		if k.inflight, err = vhostuser.NewInflight(); err != nil {
			return false, err
		}
	}
	for {
		ready, err := poll(k.qemu.FD, k.daemon.FD, k.pidfd)
		if err != nil {
			return false, err
		}
		// What virtiofsd said before it ended comes first.
		if ready[1] {
			m, err := k.daemon.Read()
			if err != nil {
				return true, nil
			}
			if err := k.reply(m); err != nil {
				return false, err
			}
			continue
		}
		if ready[2] {
			return true, nil
		}
		m, err := k.qemu.Read()
		if errors.Is(err, io.EOF) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("QEMU: %w", err)
		}
		k.request(&m)
		m.Close()
	}
}

// reply passes a reply to QEMU.
func (k *keeper) reply(m vhostuser.Message) error {
	defer m.Close()
	k.state.Note(m)
	if p := k.pending; p != nil && p.Request == m.Request {
		if p.Request == vhostuser.GetVringBase {
			k.apply(p)
		}
		k.pending = nil
	}
	if err := k.qemu.Write(m); err != nil {
		return fmt.Errorf("QEMU: %w", err)
	}
	return nil
}

// request passes a request to virtiofsd. That it has ended is found out soon.
func (k *keeper) request(m *vhostuser.Message) {
	switch {
	case k.inflight == nil:
	case m.Request == vhostuser.SetProtocolFeatures:
		if v, ok := m.U64(); ok && k.state.Offered(vhostuser.GetProtocolFeatures)&vhostuser.ProtocolInflight == 0 {
			_ = k.daemon.Write(m.With(v | vhostuser.ProtocolInflight))
			_ = k.daemon.Write(k.inflight.Message())
			k.hear(m)
			return
		}
	case m.Request == vhostuser.SetVringKick:
		k.inflight.Begin(&k.state, *m)
	}
	_ = k.daemon.Write(*m)
	k.hear(m)
}

// hear records a request that has been passed on, and keeps the descriptors
// that it needs.
func (k *keeper) hear(m *vhostuser.Message) {
	if m.Request != vhostuser.GetVringBase { // which stops a queue, when it is answered
		k.apply(m)
	}
	if m.Answered(k.state.Protocol()) {
		p := *m
		p.Payload = append([]byte(nil), m.Payload...)
		p.Files = nil
		k.pending = &p
	}
}

func (k *keeper) apply(m *vhostuser.Message) {
	if err := k.state.Apply(m); err != nil {
		// The back-end may understand it. We cannot stand in any more.
		k.blind = errors.Join(k.blind, err)
	}
}

// leave ends virtiofsd when QEMU has gone. No report is left: one without an
// end is of a keeper that was killed itself.
func (k *keeper) leave() error {
	unix.Close(k.daemon.FD)
	limit := time.AfterFunc(leaving, k.kill)
	defer limit.Stop()
	k.wait()
	return k.unreport()
}

func (k *keeper) unreport() error { return os.Remove(filepath.Join(k.Dir, ReportFile)) }

// kill kills virtiofsd, all its processes.
func (k *keeper) kill() { _ = unix.Kill(-k.child, unix.SIGKILL) }

// wait returns when all processes of virtiofsd have ended, and says how the
// first one did. One in a system call that does not return, of a backend that
// does not answer, still writes to the guest's memory: nobody may answer its
// requests before it is gone.
func (k *keeper) wait() (status unix.WaitStatus) {
	for pause := time.Millisecond; ; {
		var s unix.WaitStatus
		pid, err := unix.Wait4(-1, &s, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil: // ECHILD: there is none
			return status
		case pid == k.child:
			status = s
		case pid == 0:
			time.Sleep(pause)
			pause = min(2*pause, 50*time.Millisecond)
		}
	}
}

// ended is the end of virtiofsd as an error.
func (k *keeper) ended() error {
	return errors.New(k.end(k.wait()).String())
}

func (k *keeper) end(s unix.WaitStatus) End {
	e := End{At: time.Now(), Cause: Exited, Status: s.ExitStatus()}
	if s.Signaled() {
		e.Cause, e.Status = Killed, int(s.Signal())
	}
	if k.replaced.Load() {
		e.Cause = Replaced
	}
	return e
}

// standIn takes virtiofsd's place until QEMU goes.
func (k *keeper) standIn() error {
	// Its end and that of the connection come within a moment of each other.
	ready, err := pollFor(graceful, k.pidfd)
	if err != nil {
		return err
	}
	k.kill()
	end := k.end(k.wait())
	if !ready[0] && end.Cause == Killed {
		end.Cause = Hung
	}
	unix.Close(k.daemon.FD)
	in, err := k.takeOver()
	if err == nil {
		end.Answered = in.Answered()
	} else {
		end.Blind = err.Error()
	}
	// Answered first: the guest waits for it, the agent only for the report.
	if failed := (Report{Keeper: os.Getpid(), PID: k.child, Ended: &end}).write(k.Dir); failed != nil || err != nil {
		return fmt.Errorf("virtiofsd %s: %w", end, errors.Join(err, failed))
	}
	fmt.Fprintf(os.Stderr, "causeway-keeper: virtiofsd %s; %d requests answered with an error\n", end, end.Answered)
	return k.serve(in)
}

// graceful is how long virtiofsd's processes may take to be known as ended when
// its connection is.
const graceful = 100 * time.Millisecond

func (k *keeper) takeOver() (*vhostuser.StandIn, error) {
	if k.blind != nil {
		return nil, fmt.Errorf("%w: %w", vhostuser.ErrBlind, k.blind)
	}
	in, err := vhostuser.NewStandIn(&k.state, k.inflight)
	if err != nil || k.pending == nil {
		return in, err
	}
	m := *k.pending
	if m.Request != vhostuser.GetVringBase {
		return in, k.qemu.Write(in.Reply(m))
	}
	return in, k.handle(in, m)
}

func (k *keeper) handle(in *vhostuser.StandIn, m vhostuser.Message) error {
	reply, err := in.Handle(&m)
	m.Close()
	if err != nil || reply == nil {
		return err
	}
	return k.qemu.Write(*reply)
}

// serve answers for virtiofsd until QEMU goes.
func (k *keeper) serve(in *vhostuser.StandIn) error {
	for {
		ready, err := poll(append([]int{k.qemu.FD}, in.Kicks()...)...)
		if err != nil {
			return err
		}
		for i, kicked := range ready[1:] {
			if kicked {
				in.Kicked(i)
			}
		}
		if !ready[0] {
			continue
		}
		m, err := k.qemu.Read()
		if errors.Is(err, io.EOF) {
			return k.unreport()
		}
		if err == nil {
			err = k.handle(in, m)
		}
		if err != nil {
			return fmt.Errorf("QEMU: %w", err)
		}
	}
}

// poll waits until one of fds can be read, or has ended. A negative one never is.
func poll(fds ...int) ([]bool, error) { return pollFor(-1, fds...) }

func pollFor(limit time.Duration, fds ...int) ([]bool, error) {
	list := make([]unix.PollFd, len(fds))
	for i, fd := range fds {
		list[i] = unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	}
	milliseconds := -1
	if limit >= 0 {
		milliseconds = int(limit.Milliseconds())
	}
	for {
		_, err := unix.Poll(list, milliseconds)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, os.NewSyscallError("poll", err)
		}
		ready := make([]bool, len(fds))
		for i := range list {
			ready[i] = list[i].Revents != 0
		}
		return ready, nil
	}
}
