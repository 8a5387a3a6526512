//! Compiles what stands in for a function of librdkafka: `src/kafka/leader_hints.c` says why.

use std::env;
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let source = "src/kafka/leader_hints.c";
    println!("cargo:rerun-if-changed={source}");
    if env::var("CARGO_CFG_TARGET_OS")? != "linux" {
        // Other linkers have no `--wrap`.
        return Ok(());
    }
    cc::Build::new().file(source).cargo_metadata(false).compile("leader_hints");
    println!("cargo:rustc-link-search=native={}", env::var("OUT_DIR")?);
    println!("cargo:rustc-link-lib=static:+whole-archive=leader_hints");
    println!("cargo:rustc-link-arg=-Wl,--wrap=rd_kafka_metadata_update_op");
    Ok(())
}
