# R-VMM. `make demo` is the place to start.
.DEFAULT_GOAL := help
.PHONY: help setup build static demo test test-xen test-xen-linux bench-xen soak check bench install clean

# Where rustup puts cargo; setup may just have installed it.
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)
TARGET := $(or $(CARGO_TARGET_DIR),target)
PREFIX ?= /usr/local
# The store on disk is in C++; all else builds without these.
ROCKSDB := g++ pkg-config librocksdb-dev libclang-dev

help: ## Show this
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 16

setup: ## Install what building needs and this machine lacks
	@scripts/setup $(ROCKSDB)

build: setup ## Build the release binary
	cargo build --locked --release -p rvmm

# In a directory of its own: the flags are others, and each build would undo the other.
STATIC := --target x86_64-unknown-linux-gnu --target-dir $(TARGET)/static
static: ## Build one file that needs no library, without durability on disk
	@scripts/setup
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release -p rvmm --no-default-features $(STATIC)
	install -D -s -m 755 $(TARGET)/static/x86_64-unknown-linux-gnu/release/rvmm $(TARGET)/static/rvmm

demo: build ## Break primaries under load for 15 seconds; fails if anything is lost
	$(TARGET)/release/rvmm demo

# One of the clients that are tried is in Python; a browser opens the report of faults;
# the image of the unikernel boots on a second kind of machine.
test: ## Run all tests
	@scripts/setup $(ROCKSDB) python3-venv chromium qemu-system-x86
	scripts/test

# Xen, its tools and kernels are Debian's, fetched into a cache below target; these make
# images of them and boot those.
xen_packages := qemu-system-x86 busybox-static cpio iproute2 kmod lz4 python3 xz-utils zstd
run_xen = @scripts/setup $(ROCKSDB) $(xen_packages) && RVMM_XEN=$@ \
	RVMM_XEN_PROGRAM=$(abspath $(TARGET)/static/rvmm) cargo test --locked -p rvmm --test xen -- --nocapture

test-xen: static ## Boot a real Xen: guests' life cycle, crowds, a hostile one (minutes)
	$(run_xen)

test-xen-linux: static ## Twenty Linux guests on a real Xen, under fire; oxenstored beside (minutes)
	$(run_xen)

bench-xen: static ## Measure guests' creation on a real Xen beside Xen's daemon
	$(run_xen)

soak: build ## Hours of simulated and of real faults (SOAK=8h, SOAK_REAL as long)
	scripts/soak

check: setup ## Check formatting and lints
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked -p rvmm --no-default-features --all-targets -- -D warnings

bench: build ## Measure xenstore beside Debian's daemons
	$(TARGET)/release/rvmm bench xenstore --against xenstored --against oxenstored

install: build ## Install binary, example configuration and systemd unit (PREFIX, DESTDIR)
	install -D -m 755 $(TARGET)/release/rvmm $(DESTDIR)$(PREFIX)/bin/rvmm
	install -D -m 644 configs/rvmm.toml $(DESTDIR)/etc/rvmm/rvmm.toml.example
	install -D -m 644 configs/rvmm.service $(DESTDIR)/etc/systemd/system/rvmm.service

clean: ## Remove everything that was built
	cargo clean
