"""Generated code of the node API: see node/v1/*.proto.

The package causeway_node is meant to be used; these are for what it does not
cover.
"""
