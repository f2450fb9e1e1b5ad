# R-VMM. `make demo` is the place to start.
.DEFAULT_GOAL := help
.PHONY: help setup build demo test test-xen soak check bench install clean

# Where rustup puts cargo; setup may just have installed it.
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)
TARGET := $(or $(CARGO_TARGET_DIR),target)
PREFIX ?= /usr/local

help: ## Show this
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 10

setup: ## Install what building needs and this machine lacks
	@scripts/setup

build: setup ## Build the release binary
	cargo build --locked --release -p rvmm

demo: build ## Break primaries under load for 15 seconds; fails if anything is lost
	$(TARGET)/release/rvmm demo

# One of the clients that are tried is in Python; a browser opens the report of faults;
# the image of the unikernel boots on a second kind of machine.
test: ## Run all tests
	@scripts/setup python3-venv chromium qemu-system-x86
	scripts/test

# Xen, its tools and kernels are Debian's, fetched into a cache below target; these make
# images of them and boot those.
test-xen: ## Boot a real Xen and take guests through their life cycle (minutes)
	@scripts/setup qemu-system-x86 busybox-static cpio iproute2 kmod lz4 python3 xz-utils zstd
	RVMM_XEN=1 cargo test --locked -p rvmm --test xen -- --nocapture

soak: build ## Hours of simulated and of real faults (SOAK=8h, SOAK_REAL as long)
	scripts/soak

check: setup ## Check formatting and lints
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings

bench: build ## Measure xenstore beside Debian's daemons
	$(TARGET)/release/rvmm bench xenstore --against xenstored --against oxenstored

install: build ## Install binary, example configuration and systemd unit (PREFIX, DESTDIR)
	install -D -m 755 $(TARGET)/release/rvmm $(DESTDIR)$(PREFIX)/bin/rvmm
	install -D -m 644 configs/rvmm.toml $(DESTDIR)/etc/rvmm/rvmm.toml.example
	install -D -m 644 configs/rvmm.service $(DESTDIR)/etc/systemd/system/rvmm.service

clean: ## Remove everything that was built
	cargo clean
