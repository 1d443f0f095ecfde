package agent

import "path/filepath"

// A layout says where things lie on this host.
type layout struct{ state, run string }

func (l layout) ledger() string                 { return filepath.Join(l.state, "ledger") }
func (l layout) mounts() string                 { return filepath.Join(l.run, "mounts") }
func (l layout) mount(name string) string       { return filepath.Join(l.run, "mounts", name) }
func (l layout) gatewayRun(net string) string   { return filepath.Join(l.run, "gateways", net) }
func (l layout) gatewayState(net string) string { return filepath.Join(l.state, "gateways", net) }
func (l layout) exports(net string) string      { return filepath.Join(l.run, "exports", net) }
func (l layout) view(net, export string) string { return filepath.Join(l.run, "exports", net, export) }
func (l layout) daemon(attachment string) string {
	return filepath.Join(l.run, "virtiofs", attachment)
}
func (l layout) socket(attachment string) string {
	return filepath.Join(l.daemon(attachment), "sock")
}
