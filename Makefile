# kubelite: `make up` on a fresh Debian 12 shows a cluster; `make test` proves it. Both install what they need.

TARGET  := $(shell rustc -vV | sed -n 's/^host: //p')
BIN     := target/$(TARGET)/release
LAB     := $(BIN)/lab
DEVLAB  := target/$(TARGET)/debug/lab
SCENARIOS := --test bad_input --test faults --test kubectl --test kube_rs --test pod_network --test services --test strangers --test workloads
# What containers, networks and captures need at run time, and protoc (with its standard files) at build time.
PACKAGES := containerd runc nftables iproute2 tcpdump busybox-static util-linux protobuf-compiler libprotobuf-dev gcc
# clang compiles the kernel's programs anew, to see that what is embedded is what the source says.
TEST_PACKAGES := etcd-server etcd-client clang-14 llvm-14 linux-libc-dev

.DEFAULT_GOAL := help
.PHONY: help up down test test-unit test-e2e check fmt bench bench-datapath bench-leases images clean deps deps-test build bpf

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: deps build ## a cluster of three nodes on this machine, shown at work
	$(LAB) up

down: ## end it, nothing is left behind
	@if [ -x $(LAB) ]; then $(LAB) down; else cargo run --release --quiet -p e2e --bin lab -- down; fi

test: deps deps-test test-unit test-e2e ## all tests: units, store conformance, scenarios on the cluster

# Tests run in the dev profile: it checks arithmetic, and it compiles in a third of the time.
test-unit: deps-test
	cargo build -p kubelite --bin kubelite
	cargo test --workspace --exclude e2e
	cargo test -p e2e --lib --bins --test manifests --test invariants

# The scenarios need the cluster; whatever happens, it is taken down again. All of them over flannel's udp backend and our store, those of
# the pod network over the other backends, a real etcd, and with subnets from Kubernetes' nodes too.
test-e2e: deps
	cargo build --workspace --bins
	$(DEVLAB) down
	$(call scenarios,,$(SCENARIOS))
	$(call scenarios,--backend=vxlan --datastore=etcd,--test pod_network)
	$(call scenarios,--backend=host-gw,--test pod_network)
	$(call scenarios,--subnets=kube,--test pod_network)

scenarios = $(DEVLAB) up $(1) && cargo test -p e2e --no-fail-fast $(2) -- --test-threads=1; code=$$?; $(DEVLAB) down; exit $$code

check: ## formatting, lints, licences
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	@if command -v cargo-deny >/dev/null; then cargo deny check licenses bans sources; else echo "cargo-deny is not installed: cargo install cargo-deny"; fi

fmt: ## format the code
	cargo fmt --all

bench: build ## measure; the results stand in docs/benchmarks.md
	$(LAB) measure

bench-datapath: deps deps-test ## measure pod to pod over two hosts beside plain routing and VXLAN
	cargo bench -p flanneld --bench datapath

bench-leases: deps deps-test ## measure 4,000 leases in a real etcd: listing, changes, lookups
	cargo bench -p flanneld --bench leases

bpf: deps-test ## compile the kernel's programs; commit the objects together with the sources
	$(MAKE) -C flanneld/bpf

images: deps build ## build the container images into .lab/images
	$(LAB) images

clean: down ## remove all that was built
	cargo clean

deps: ## install by apt what is missing
	@./.ci/deps $(PACKAGES)
	@command -v kubectl >/dev/null || ./.ci/deps kubernetes-client

deps-test:
	@./.ci/deps $(TEST_PACKAGES)

build:
	cargo build --release --workspace --bins
