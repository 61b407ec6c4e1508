# A thin front for cargo: `make` leaves build/kvstore and build/kv_client.

.PHONY: all test demo ci clean

all:
	cargo build --release
	mkdir -p build
	cp -f target/release/kvstore target/release/kv_client build/

test:
	cargo test

demo: all
	./build/kvstore demo

ci:
	.ci/run

clean:
	rm -rf build
	cargo clean
