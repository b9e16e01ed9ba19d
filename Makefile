# `make help` lists the targets. Tools are built once, at the versions of deploy/tools/versions, into ~/.cache/millrace.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
export PATH := $(HOME)/.cargo/bin:/usr/local/go/bin:$(PATH)
CARGO_TEST := cargo nextest run --locked
RELEASE = $${CARGO_TARGET_DIR:-target}/$$(rustc -vV | sed -n 's/^host: //p')/release

help: ## Lists the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

demo: ## A shop on a real cluster: events published twice and poisoned, each effect once. CLUSTER=none: without a cluster
	@deploy/demo

test: check unit e2e ## Everything: lints, rules, unit and adapter tests, end to end on a real cluster

check: tools ## Format, lints, documentation, dependency rules, generated files
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D rustdoc::broken_intra_doc_links" cargo doc --workspace --no-deps --document-private-items --locked --quiet
	deploy/check/dependencies
	deploy/check/generated
	PATH="$$(deploy/tools/get cargo-deny | tail -n 1):$$PATH" cargo deny --all-features check bans licenses sources

unit: tools ## Unit, property and adapter tests; brokers, databases, mail and API servers are real
	PATH="$$(deploy/tools/get cargo-nextest | tail -n 1):$$PATH" $(CARGO_TEST) --workspace --exclude millrace-e2e

e2e: images servers ## The scenarios on a real cluster
	PATH="$$(deploy/tools/get cargo-nextest | tail -n 1):$$PATH" $(CARGO_TEST) -p millrace-e2e

footprint: images ## Memory at rest, image size and time to the first ack of the runtime
	@cargo run --quiet --locked -p millrace-e2e --bin footprint -- $(RELEASE)

ledger: tools programs ## 50,000 events on each broker in a storm of kills, zombies, crashes and rebalances. BROKERS, LEDGER_SEED
	@cargo run --quiet --locked -p millrace-ledger --bin ledger -- $(RELEASE) $(BROKERS)

faults: tools programs ## Single faults with their bounds: store away, receiver failing, memory, crash, drains. CASES
	@cargo run --quiet --locked -p millrace-ledger --bin faults -- $(RELEASE) $(CASES)

scale: tools programs ## COUNT consumers, 10,000 when not given, on a real API server: time, writes, memory, edits
	@cargo run --quiet --locked -p millrace-operator-trials --bin scale -- $(RELEASE)/operator $(COUNT)

operator-faults: tools ## The operator: a crash after every write, lost notifications, old views, an API server that goes
	@cargo run --quiet --locked -p millrace-operator-trials --bin operator-faults

operator-objects: tools ## 100,000 generated objects, and 1,000 changes of some on a real API server, each taken back
	OPERATOR_OBJECTS=100000 OPERATOR_INVALID=5000 OPERATOR_STEPS=1000 PATH="$$(deploy/tools/get cargo-nextest | tail -n 1):$$PATH" \
	$(CARGO_TEST) -p operator --no-capture -E 'test(/mutations::|no_object_changes_the_security/)'

programs: ## Operator, runtimes and producer as they are in their images
	@deploy/images/programs

bench-smoke: tools ## How fast: medians of five rounds beside hand-written loops, some four minutes
	@bench/run smoke

bench: tools ## The same with more events and rounds, for people
	@bench/run full

images: tools ## Builds the images as archives in ~/.cache/millrace/images
	@deploy/images/build

servers: tools ## Builds the image of the servers that some scenarios need beside NATS
	@deploy/images/servers

cluster-up: ## Brings a cluster up: kind where a container engine answers, else local processes (Linux, root)
	@deploy/cluster/up

cluster-down: ## Takes it down and leaves nothing behind
	@deploy/cluster/down

tools: ## Builds the pinned tools that are missing
	@deploy/tools/get nats-server kafka mailpit redis-server postgresql etcd kubernetes helm cargo-nextest >/dev/null

.PHONY: help demo test check unit e2e footprint ledger faults scale operator-faults operator-objects programs bench-smoke bench images servers cluster-up cluster-down tools
