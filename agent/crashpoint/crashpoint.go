// Package crashpoint names the instants at which a test kills the agent.
//
// In a normal build Hit does nothing. In a build with the tag "crashpoints" it
// sends SIGKILL to the process at the point that the environment variable
// CAUSEWAY_CRASH_AT names: no deferred call, no flush, no farewell.
package crashpoint

// A Point is one named instant, "package.what-has-just-happened".
type Point string

// Every point, in the order in which an object meets them. The kill matrix of
// package integration arms each one in turn.
const (
	LedgerPut    Point = "ledger.put"    // an intent was written
	LedgerDelete Point = "ledger.delete" // a record was removed

	StepBegin Point = "step.begin" // any reconcile step is about to run; suffixed with ".kind.create|remove"
	StepEnd   Point = "step.end"   // the same step has returned, nothing was recorded of it

	ProcessForked Point = "process.forked" // a launcher runs, and may not yet hold its lock

	// These kill the launcher, not the agent.
	LaunchLocked     Point = "launch.locked"     // the lock is held, the identity is that of an earlier process
	LaunchIdentified Point = "launch.identified" // the identity is written, nothing is confined
	LaunchConfined   Point = "launch.confined"   // exec is next

	NetnsCreated   Point = "netns.created"   // the namespace is there, and empty
	NetnsLink      Point = "netns.link"      // the veth pair is there, not yet a port
	NetnsAddressed Point = "netns.addressed" // addresses are set, routes and announcements are not

	GatewayBus     Point = "ganesha.bus"     // the bus runs, Ganesha does not
	GatewayStarted Point = "ganesha.started" // Ganesha runs, its readiness was not seen
	ExportFile     Point = "ganesha.file"    // an export's file is written, Ganesha was not told
	ExportAdded    Point = "ganesha.added"   // Ganesha was told, the answer was not read back

	DeviceAttached Point = "virtiofs.attached" // libvirt took the device, the event was not awaited
	DeviceDefined  Point = "virtiofs.defined"  // the definition has the device, nothing was recorded of it
	DeviceUnplug   Point = "virtiofs.unplug"   // libvirt was asked to unplug, the guest has not answered
)

// At makes a point of one kind of step: At(StepBegin, "mount", "create").
func At(p Point, kind, verb string) Point {
	return p + Point("."+kind+"."+verb)
}
