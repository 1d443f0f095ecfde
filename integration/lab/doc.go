// Package lab builds worlds for the tests, the demo and the bench: tenant
// networks, clients, a pool, libvirt, guests and the agent, all real, on a
// machine that is left as it was.
//
// # Inside
//
// Everything happens in namespaces of its own. A program goes there at its
// very beginning:
//
//	func TestMain(m *testing.M) { os.Exit(lab.Main(m)) }
//
//	func main() {
//		if code, inside := lab.Enter(); !inside {
//			os.Exit(code)
//		}
//		// all that follows runs inside
//	}
//
// The program runs a second time there:
//
//	the program           waits, passes signals on, removes the directory
//	 +- process 1         new mount, network and pid namespaces; mounts, reaps
//	     +- the program   whose tests run
//	         +- whatever it starts
//
// When process 1 ends, for whatever reason, the kernel kills what is left and
// drops mounts, links and loop devices. Inside, /run is empty, /etc can be
// written without the host noticing, libvirt's directories are empty and its
// account exists, all mounts are shared as systemd has them, there is lo, and
// no way out: modules must have been downloaded. /tmp, /dev and the rest are
// the host's; os.MkdirTemp makes directories that go with the program.
//
// # On another system
//
// With CAUSEWAY_LAB_ROOT, or by On, all of that happens on the system whose root
// directory that is: its programs, its settings, its libraries, and an empty
// /var. The kernel, the sources and the compilers, which it need not have, are
// the host's, whose own root is in /host. 'make deps' makes one of Debian 13:
//
//	CAUSEWAY_LAB_ROOT=$PWD/.cache/debian13 go test ./integration -run TestLife
//
// # Pieces
//
//	NewBridge(ctx, "br-blue")           *Bridge     NewClient, Close
//	bridge.NewClient(ctx, name, ips...) *Client     NetNS, Command, Close
//	NewPool(ctx, mebibytes)             *Pool       Dir, Close
//	StartLibvirt(ctx)                   *Libvirt    URI, Kill, Stop, Start, Pause, Continue, Boot, Define, Log, Close
//	StartOtherLibvirt(ctx)              *Libvirt    a second host's, beside it
//	libvirt.Boot(ctx, GuestOptions)     *Guest      Exec, Shell, MountNFS, MountVirtiofs, Unmount, StartWriter,
//	                                                Suspend, Resume, Reset, Destroy, Start, WaitAgent, XML, Log,
//	                                                Migrate, On, Close
//	guest.StartWriter(ctx, path, pause) *Writer     Progress, Mark, WaitLines, WaitMore, On, Stop; CheckLines
//	Build(ctx, BuildOptions)            *Programs   or Installed(dir)
//	NewAgent(AgentOptions)              *Agent      Start, Launch, WaitInSync, Kill, WaitKilled, Stop, Restart,
//	                                                CLI, Must, Connect, HostState, PID, Log, Close
//	agent.HostState(ctx, libvirt)       HostState   String, Diff, With, Without
//
// Close them in the reverse order. All are usable without package testing; an
// error holds the end of the log of the component that failed.
//
// A guest boots in 4 s under software emulation, and costs about 200 MB. KVM is
// used where the processor has it; CAUSEWAY_LAB_KVM=0 or 1 decides otherwise.
// CAUSEWAY_GUEST_DIR holds the guest's image, and systemd.cpio, a Debian with
// systemd in place of busybox, for tests that boot it themselves; .cache/guest by
// default.
package lab
