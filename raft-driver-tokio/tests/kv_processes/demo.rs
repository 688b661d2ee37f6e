//! What `make run` runs, with fewer writes.

use std::process::{Child, Command, Stdio};

use crate::support::{binary, ended, terminate, until};

fn demo(temporary: &std::path::Path, arguments: &[&str]) -> Child {
    let mut command = Command::new(binary());
    command.arg("demo").args(arguments).env("TMPDIR", temporary);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_left_behind() {
    let temporary = tempfile::tempdir().unwrap();
    let output = ended(demo(temporary.path(), &["--writes", "2000", "--clients", "8", "--limit-s", "80"]));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    for part in ["2,000 writes of 256 bytes", "new leader", "gap", "wrong: 0", "all 3 state machines", "done"]
    {
        assert!(text.contains(part), "expected \"{part}\" in:\n{text}");
    }
    assert_eq!(temporary.path().read_dir().unwrap().count(), 0);
}

#[test]
fn a_demo_that_is_interrupted_cleans_up() {
    let temporary = tempfile::tempdir().unwrap();
    let process = demo(temporary.path(), &["--writes", "1000000"]);
    until("the nodes to begin", || {
        let demo = temporary.path().read_dir().unwrap().next()?.ok()?.path();
        demo.join("node-3").is_dir().then_some(())
    });
    terminate(&process);
    let output = ended(process);
    assert_eq!(output.status.code(), Some(130), "{output:?}");
    assert_eq!(temporary.path().read_dir().unwrap().count(), 0);
}

#[test]
fn a_demo_that_takes_too_long_fails_and_cleans_up() {
    let temporary = tempfile::tempdir().unwrap();
    let output = ended(demo(temporary.path(), &["--writes", "10000000", "--limit-s", "3"]));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("not done within 3 s"), "{output:?}");
    assert_eq!(temporary.path().read_dir().unwrap().count(), 0);
}
