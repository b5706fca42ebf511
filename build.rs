//! Links `src/bus/kafka/leaders.c` into librdkafka.

const SOURCE: &str = "src/bus/kafka/leaders.c";

/// The function of librdkafka that it is called instead of.
const WRAPPED: &str = "rd_kafkap_leader_discovery_set_topic";

fn main() {
    println!("cargo:rerun-if-changed={SOURCE}");
    // Linkers of other systems cannot do it.
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return;
    }
    for object in cc::Build::new().file(SOURCE).compile_intermediates() {
        println!("cargo:rustc-link-arg={}", object.display());
    }
    println!("cargo:rustc-link-arg=-Wl,--wrap={WRAPPED}");
}
