use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use quickcheck::quickcheck;
use state_machine::mix64;

use super::*;

#[derive(Clone, Debug, PartialEq)]
struct Item(u64, u64);

impl Measured for Item {
    fn size(&self) -> u64 {
        self.0
    }

    fn digest(&self) -> u64 {
        mix64(self.1)
    }
}

fn check(map: &PMap<u16, Item>, model: &BTreeMap<u16, Item>) {
    let mut entries = Vec::new();
    map.visit(&mut |key, value| {
        entries.push((*key, value.clone()));
        true
    });
    assert!(entries.iter().map(|(key, value)| (key, value)).eq(model.iter()));
    let mut sum = Measure::default();
    for (key, value) in model {
        assert_eq!(map.get(key), Some(value));
        assert!(map.sums_hold(key));
        assert_eq!(map.next_from(key), Some((key, value)));
        if value.0 > 0 {
            assert_eq!(map.at_offset(sum.size), Some((*key, sum.size)));
            assert_eq!(map.at_offset(sum.size + value.0 - 1), Some((*key, sum.size)));
        }
        sum.add(measure(value));
    }
    assert_eq!(map.total(), sum);
    assert_eq!(map.at_offset(sum.size), None);
    assert_eq!(map.is_empty(), model.is_empty());
}

quickcheck! {
    fn behaves_like_a_btree_map(ops: Vec<(u8, u16, u8)>, dense: bool) -> bool {
        let (mut map, mut model) = (PMap::default(), BTreeMap::new());
        let mut copies = Vec::new();
        for round in 0..6 {
            for &(kind, key, value) in &ops {
                let key = if dense { key % 64 } else { key };
                let key = key.wrapping_add(round * 7);
                let item = Item(u64::from(value % 9), u64::from(value));
                match kind % 8 {
                    0..=3 => assert_eq!(map.insert(key, item.clone()), model.insert(key, item)),
                    4..=6 => assert_eq!(map.remove(&key), model.remove(&key)),
                    _ => {
                        let Some(old) = model.get_mut(&key) else {
                            assert_eq!(map.change(&key, 0), None);
                            continue;
                        };
                        let new = Item(old.0, u64::from(value) + 1000);
                        let delta = new.digest().wrapping_sub(old.digest());
                        *map.change(&key, delta).expect("it is there") = new.clone();
                        *old = new;
                    }
                }
            }
            check(&map, &model);
            copies.push((map.clone(), model.clone()));
        }
        for (map, model) in &copies {
            check(map, model);
        }
        true
    }
}

#[test]
fn many_entries_come_and_go() {
    let (mut map, mut model) = (PMap::default(), BTreeMap::new());
    for number in 0..20_000_u32 {
        let key = mix64(u64::from(number)) as u16;
        let item = Item(1, u64::from(number));
        map.insert(key, item.clone());
        model.insert(key, item);
    }
    check(&map, &model);
    let keep = map.clone();
    let full = model.clone();
    for number in 0..20_000_u32 {
        let key = mix64(u64::from(number)) as u16;
        if !key.is_multiple_of(5) {
            assert_eq!(map.remove(&key), model.remove(&key));
        }
    }
    check(&map, &model);
    check(&keep, &full);
    for key in model.clone().keys() {
        map.remove(key);
    }
    assert!(map.is_empty() && map.same(&PMap::default()));
}

#[test]
fn tampering_is_noticed() {
    let mut map = PMap::default();
    for key in 0..1000_u16 {
        map.insert(key, Item(1, u64::from(key)));
    }
    map.change(&500, 0).expect("it is there").1 ^= 1;
    assert!(!(0..1000).all(|key| map.sums_hold(&key)));
}
