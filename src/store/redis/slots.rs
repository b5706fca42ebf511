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

/// Keys that begin so: of every range, in their order, one in its first slot and one in its last.
pub(super) fn keys_of_all(prefix: &str) -> Vec<String> {
    let of_range = SLOTS / RANGES as u16;
    let mut keys = vec![None; 2 * RANGES];
    let mut missing = keys.len();
    for key in (0_u32..).map(|n| format!("{prefix}:{n}")) {
        let slot = slot(&key);
        let place = match slot % of_range {
            0 => usize::from(slot / of_range) * 2,
            last if last == of_range - 1 => usize::from(slot / of_range) * 2 + 1,
            _ => continue,
        };
        if keys[place].is_none() {
            (keys[place], missing) = (Some(key), missing - 1);
        }
        if missing == 0 {
            break;
        }
    }
    keys.into_iter().flatten().collect()
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
    fn every_range_has_a_key_in_its_first_and_its_last_slot() {
        let slots: Vec<_> = keys_of_all("attio-bridge:probe").iter().map(|key| slot(key)).collect();
        let expected: Vec<_> = (0..16).flat_map(|range| [range * 1024, range * 1024 + 1023]).collect();
        assert_eq!(slots, expected);
    }
}
