// Package agent is the node's core: what a caller may ask for, what that
// means, and the reconciling that makes this host agree. It knows no gRPC, no
// libvirt and no netlink.
package agent
