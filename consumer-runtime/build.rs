//! Asks the linker for small static binaries, which are those of the images.
//!
//! A static binary relocates itself when it starts. Unpacked, the table of that takes 24 bytes for each pointer, and all of
//! it is read into memory: more than a megabyte of an idle consumer. Functions with the same code are kept once where the
//! linker that Rust brings can do that.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let features = env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if features.split(',').any(|feature| feature == "crt-static") {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
        if env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
            println!("cargo:rustc-link-arg-bins=-Wl,--icf=all");
        }
    }
}
