# Causeway. 'make help' lists what can be made.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

CACHE := $(CURDIR)/.cache
TOOLS := $(CACHE)/tools
# Go that 'make deps' brought, if it had to, comes first.
export PATH := $(CACHE)/go/bin:$(PATH):/usr/local/go/bin:/usr/sbin:/sbin
export CAUSEWAY_GUEST_DIR := $(CACHE)/guest

GOTESTSUM := $(TOOLS)/gotestsum-v1.13.0
STATICCHECK := $(TOOLS)/staticcheck-v0.8.2
PROTOC_GEN_GO := $(TOOLS)/protoc-gen-go-v1.36.12
PROTOC_GEN_GO_GRPC := $(TOOLS)/protoc-gen-go-grpc-v1.6.2

# The programs know their version from git, where git can be asked.
VCS = $(shell git rev-parse HEAD >/dev/null 2>&1 && echo true || echo false)
# libvirt is loaded when it is used, so that a host for gateways alone needs none.
BUILD = go build -tags libvirt_dlopen -trimpath -ldflags '-s -w' -buildvcs=$(VCS) -o bin/
PROTO := node/v1/node.proto node/v1/rules.proto node/v1/gateways.proto
SCRIPTS = $(shell find . -name '*.sh' -not -path './.cache/*') .ci/run ganesha/preload/build packaging/libvirt-hook

.PHONY: help deps build check check-format check-vet check-lint check-proto check-scripts check-python test demo bench proto clean

help: ## list what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

deps: ## install and download what building and testing need (Debian 12, root)
	@integration/deps.sh

build: ## build the programs, and the library of the gateways, into bin/
	$(BUILD) ./cmd/causeway-agent ./cmd/causeway
	CGO_ENABLED=0 $(BUILD) ./cmd/causeway-launch ./cmd/causeway-keeper
	ganesha/preload/build bin

check: check-format check-vet check-lint check-proto check-scripts check-python ## format, vet, lint, generated code, scripts, Python

check-format:
	@files=$$(gofmt -l $$(git ls-files '*.go')); \
	if [ -n "$$files" ]; then echo "gofmt -w is needed for:"; echo "$$files"; exit 1; fi

check-vet:
	go vet ./...
	go vet -tags crashpoints ./...

check-lint: $(STATICCHECK)
	$(STATICCHECK) ./...
	$(STATICCHECK) -tags crashpoints ./...

check-proto: $(PROTOC_GEN_GO) $(PROTOC_GEN_GO_GRPC)
	@if ! command -v protoc >/dev/null; then \
		if [ "$${CI:-}" = true ]; then echo "protoc is not installed: make deps"; exit 1; fi; \
		echo "note: no protoc, so generated code was not compared"; exit 0; \
	fi; \
	fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	$(call protoc,$$fresh); \
	(cd "$$fresh" && find . -type f) | while read -r f; do \
		diff -u "api/$$f" "$$fresh/$$f" || { echo "make proto is needed"; exit 1; }; \
	done

check-scripts:
	@if ! command -v shellcheck >/dev/null; then \
		if [ "$${CI:-}" = true ]; then echo "shellcheck is not installed: make deps"; exit 1; fi; \
		echo "note: no shellcheck, so scripts were not checked"; exit 0; \
	fi; \
	shellcheck $(SCRIPTS); \
	shellcheck -s dash integration/lab/guest/init

check-python:
	@if ! command -v mypy >/dev/null || ! command -v pycodestyle >/dev/null; then \
		if [ "$${CI:-}" = true ]; then echo "mypy or pycodestyle is not installed: make deps"; exit 1; fi; \
		echo "note: no mypy or pycodestyle, so Python was not checked"; exit 0; \
	fi; \
	cd api/python; \
	pycodestyle --exclude='*_pb2*' .; \
	mypy --no-error-summary --cache-dir=/dev/null -p causeway_node; \
	mypy --no-error-summary --cache-dir=/dev/null example.py

test: deps $(GOTESTSUM) ## all tests, the real components among them (root)
	go build -o $(TOOLS)/run ./integration/lab/run
	$(GOTESTSUM) --format pkgname --format-hide-empty-pkg --raw-command -- integration/test.sh $(TOOLS)/run

demo: deps build ## a share reaches a running guest by NFS and by virtiofs
	go build -o $(TOOLS)/demo ./integration/demo
	$(TOOLS)/demo

bench: deps build ## measure against the raw operations; writes bench.json
	go build -o $(TOOLS)/bench ./integration/bench
	$(TOOLS)/bench

proto: $(PROTOC_GEN_GO) $(PROTOC_GEN_GO_GRPC) ## generate code from the .proto files
	$(call protoc,api)

protoc = protoc -I api --plugin=protoc-gen-go=$(PROTOC_GEN_GO) --plugin=protoc-gen-go-grpc=$(PROTOC_GEN_GO_GRPC) \
	--go_out=$(1) --go_opt=paths=source_relative --go-grpc_out=$(1) --go-grpc_opt=paths=source_relative $(PROTO) && \
	api/python/generate.sh $(1)/python $(PROTO)

clean: ## remove what was built and downloaded
	chmod -R u+w .cache 2>/dev/null || true
	rm -rf bin .cache bench.json

# Tools are installed under the name of their version, so that a new pin is a
# new file.
$(GOTESTSUM): PACKAGE = gotest.tools/gotestsum
$(STATICCHECK): PACKAGE = honnef.co/go/tools/cmd/staticcheck
$(PROTOC_GEN_GO): PACKAGE = google.golang.org/protobuf/cmd/protoc-gen-go
$(PROTOC_GEN_GO_GRPC): PACKAGE = google.golang.org/grpc/cmd/protoc-gen-go-grpc
$(GOTESTSUM) $(STATICCHECK) $(PROTOC_GEN_GO) $(PROTOC_GEN_GO_GRPC):
	@mkdir -p $(TOOLS)
	CGO_ENABLED=0 GOFLAGS= GOBIN=$(TOOLS) go install $(PACKAGE)@$(lastword $(subst -, ,$(notdir $@)))
	@mv $(TOOLS)/$(notdir $(PACKAGE)) $@
