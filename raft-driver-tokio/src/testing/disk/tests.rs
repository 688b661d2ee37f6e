//! What survives a loss of power, and what does not.

use super::*;

fn contents(disk: &SimulatedDisk, name: &str) -> Option<Vec<u8>> {
    disk.open(name).ok().map(|file| file.contents().unwrap())
}

/// All contents of the file over many crashes at this moment.
fn survivors(disk: &SimulatedDisk, name: &str) -> Vec<Option<Vec<u8>>> {
    let mut found: Vec<_> = (0..200)
        .flat_map(|seed| {
            let copy = SimulatedDisk(Arc::new(Mutex::new(disk.state().clone())));
            let crashes = copy.crashes(seed).unwrap();
            crashes.into_iter().filter(|crash| crash.returned).map(|crash| contents(&crash.medium, name))
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[test]
fn what_is_synced_stays_and_the_rest_may_not() {
    let disk = SimulatedDisk::default();
    let file = disk.create("a").unwrap();
    file.append(b"ab").unwrap();
    file.sync().unwrap();
    assert_eq!(survivors(&disk, "a"), [None, Some(b"ab".to_vec())], "its name is not durable");
    disk.sync_names().unwrap();
    assert_eq!(survivors(&disk, "a"), [Some(b"ab".to_vec())]);
    file.append(b"cd").unwrap();
    let torn = [&b"ab"[..], b"abc", b"abcd"].map(|bytes| Some(bytes.to_vec()));
    assert_eq!(survivors(&disk, "a"), torn);
    file.sync().unwrap();
    assert_eq!(survivors(&disk, "a"), [Some(b"abcd".to_vec())]);
}

#[test]
fn a_renaming_is_durable_with_the_directory() {
    let disk = SimulatedDisk::default();
    for content in [&b"old"[..], b"new"] {
        let file = disk.create("a.new").unwrap();
        file.append(content).unwrap();
        file.sync().unwrap();
        disk.rename("a.new", "a").unwrap();
        if content == b"old" {
            disk.sync_names().unwrap();
        }
    }
    assert_eq!(survivors(&disk, "a"), [Some(b"new".to_vec()), Some(b"old".to_vec())]);
    disk.remove("a").unwrap();
    assert_eq!(survivors(&disk, "a").len(), 3, "nor is a removal");
    assert!(disk.remove("a").is_err() && disk.rename("b", "c").is_err());
}

#[test]
fn changes_that_a_killed_process_left_may_still_be_lost() {
    let disk = SimulatedDisk::default();
    let file = disk.create("a").unwrap();
    disk.sync_names().unwrap();
    disk.crashes(1).unwrap();
    file.append(b"x").unwrap();
    let crashes = disk.crashes(1).unwrap();
    let killed = crashes.iter().find(|crash| crash.cached && crash.returned).unwrap();
    assert_eq!(contents(&killed.medium, "a"), Some(b"x".to_vec()));
    assert_eq!(survivors(&killed.medium, "a"), [Some(vec![]), Some(b"x".to_vec())]);
}

#[test]
fn a_failed_sync_is_final() {
    let disk = SimulatedDisk::default();
    let file = disk.create("a").unwrap();
    disk.sync_names().unwrap();
    file.append(b"x").unwrap();
    assert!(disk.fail_once(0));
    file.sync().unwrap_err();
    file.sync().unwrap();
    file.append(b"y").unwrap();
    file.sync().unwrap();
    assert_eq!(survivors(&disk, "a"), [Some(b"\0y".to_vec())]);
}
