# A thin front for cargo: `make` leaves build/kvstore and build/kv_client.

.PHONY: all test demo soak fuzz figures compare growth ci clean

# How long `make soak` takes: three times this, for each mode of the simulator and for real processes
# (a calm load, links reset, a follower stopped, hostile guests: docs/testing.md tells what is judged).
SOAK_SECONDS ?= 600
# How long `make fuzz` takes for each target.
FUZZ_SECONDS ?= 60

all:
	cargo build --release
	mkdir -p build
	cp -f target/release/kvstore target/release/kv_client build/

test:
	cargo test

demo: all
	./build/kvstore demo

soak: all
	SIM_JUDGE_SPEED=1 SIM_FROM=$$(date +%s) SIM_SECONDS=$(SOAK_SECONDS) cargo test --release --test simulation many -- --nocapture
	./build/kvstore demo --soak $(SOAK_SECONDS)

# Needs cargo-fuzz. Nothing is unsafe here, so no sanitizer; its flags are not stable ones all the same.
fuzz:
	for target in $$(cargo fuzz list); do \
		RUSTC_BOOTSTRAP=1 cargo fuzz run -s none $$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

# The plots of docs/performance.md, measured and drawn: about four minutes on two cores.
figures:
	cargo bench --bench figures

# The same work on ours, etcd and Redis: about two and a half minutes.
compare:
	cargo bench --bench compare

# More clients, larger values, more nodes, more keys, idle connections: about six minutes.
growth:
	cargo bench --bench growth

ci:
	.ci/run

clean:
	rm -rf build
	cargo clean
