// Package lab builds worlds for the tests, the demo and the bench: tenant
// bridges, clients, a pool, libvirt, guests and the agent, all real.
package lab
