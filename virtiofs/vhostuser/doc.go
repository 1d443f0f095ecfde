// Package vhostuser speaks the vhost-user protocol, by which QEMU gives a
// virtio device's queues to another process, as far as it takes to stand
// between the two and to stand in for a back-end that has ended: messages with
// their descriptors (Conn), what QEMU has set so far (State), and answering
// what is left in the queues of a virtiofs device with an error (StandIn).
//
// The protocol is that of QEMU's docs/interop/vhost-user.rst; queues are those
// of the virtio specification 1.1, section 2.6 (split virtqueues); requests are
// those of FUSE, section 5.11.
//
// The guest writes what is in the queues, and QEMU sends the messages. Neither
// is trusted: every index, length and address is checked against what it points
// into. A wrong one costs its sender the device, and nobody else anything.
package vhostuser
