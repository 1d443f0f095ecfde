#!/bin/bash
# Generates the Python stubs of the node API.
#
#   generate.sh OUT PROTO...     OUT holds causeway_node/; PROTO lie below api/
#
# protoc names Python's modules after the path of the .proto files. Theirs,
# node.v1, must not be a top-level package where Python installs, so that they
# are moved into ours, and import each other from beside themselves.
set -euo pipefail

out=$1
shift
mkdir -p "$out"
api=$(cd "$(dirname "$0")/.." && pwd)
plugin=$(command -v grpc_python_plugin) || {
	echo "generate.sh: grpc_python_plugin is missing: make deps" >&2
	exit 1
}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

protoc -I "$api" --python_out="$work" --pyi_out="$work" \
	--plugin=protoc-gen-grpc_python="$plugin" --grpc_python_out="$work" "$@"
for file in "$work"/node/v1/*; do
	[[ $file != *_pb2_grpc.py ]] || grep -q Stub "$file" || rm "$file" # no service in it
done
sed -i 's/^from node\.v1 import /from . import /' "$work"/node/v1/*
mkdir -p "$out/causeway_node/v1"
cp "$work"/node/v1/* "$out/causeway_node/v1/"

protoc -I "$api/python" --python_out="$out" --pyi_out="$out" causeway_node/rpc_status.proto
