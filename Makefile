# A thin front for cargo: `make` leaves build/kvstore and build/kv_client.

.PHONY: all test demo soak ci clean

# How long `make soak` takes.
SOAK_SECONDS ?= 600

all:
	cargo build --release
	mkdir -p build
	cp -f target/release/kvstore target/release/kv_client build/

test:
	cargo test

demo: all
	./build/kvstore demo

soak: all
	./build/kvstore demo --soak $(SOAK_SECONDS)

ci:
	.ci/run

clean:
	rm -rf build
	cargo clean
