//! The slots of a cluster, in ranges: a node that is away has its ranges away, and the others are shared.

/// Of a cluster, by its specification.
const SLOTS: u16 = 16_384;
/// Ranges of slots. The masters of a cluster have few ranges each; a range that two of them have is away with either.
pub(super) const RANGES: usize = 16;

/// The range of a key's slot. The key has no braces.
pub(super) fn range_of(key: &str) -> usize {
    usize::from(slot(key)) * RANGES / usize::from(SLOTS)
}

/// CRC-16 of the key (XMODEM), modulo the number of slots.
fn slot(key: &str) -> u16 {
    let crc =
        key.bytes().fold(0_u16, |crc, byte| {
            (0..8).fold(crc ^ u16::from(byte) << 8, |crc, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
            })
        });
    crc % SLOTS
}

/// For every range a key in it that begins so.
pub(super) fn key_in_each(prefix: &str) -> Vec<String> {
    let keys = |range| (0..).map(|n: u32| format!("{prefix}:{n}")).find(|key| range_of(key) == range);
    (0..RANGES).filter_map(keys).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_client() {
        for key in ["", "123456789", "attio-bridge:generation", "attio-bridge:00ff"] {
            let slot = redis::cluster_routing::Slot::new(slot(key));
            assert_eq!(slot, Some(redis::cluster_routing::Slot::for_key(key)), "{key}");
        }
    }

    #[test]
    fn every_range_has_a_key() {
        let keys = key_in_each("attio-bridge:probe");
        assert_eq!(keys.iter().map(|key| range_of(key)).collect::<Vec<_>>(), (0..RANGES).collect::<Vec<_>>());
    }
}
