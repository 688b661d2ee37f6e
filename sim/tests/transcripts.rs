//! A run that was written down is the same run again, to the last event.

use raft_sim::{Options, Simulation, Transcript, TranscriptError};

fn short() -> Simulation {
    let options = Options { nodes: None, seconds_min: 5, operations_min: 50, ..Options::default() };
    Simulation { options, ..Simulation::default() }
}

#[test]
fn a_transcript_is_the_same_run_again_also_from_its_text() {
    for seed in 0..12 {
        let (summary, transcript) = short().transcribe(seed);
        let summary = summary.unwrap_or_else(|failure| panic!("{failure}"));
        let read = Transcript::parse(&transcript.to_text()).expect("what was written can be read");
        assert_eq!(read.to_text(), transcript.to_text());
        let again = short().replay(&read).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(again, summary, "seed {seed}");
    }
}

#[test]
fn what_is_no_transcript_is_refused() {
    let text = short().transcribe(3).1.to_text();
    let error = |text: &str| Transcript::parse(text).expect_err("this is none").to_string();
    assert!(matches!(Transcript::parse(""), Err(TranscriptError::Malformed { line: 1, .. })));
    assert!(error(&text.replacen("\"transcript\":1", "\"transcript\":9", 1)).contains("format 9"));
    assert!(error(&format!("{text}{{}}\n")).contains("is not that of a transcript"));
    let crash = "[5,{\"fault\":{\"crash\":{\"server\":70,\"down\":1}}}]";
    assert!(error(&format!("{text}{crash}\n")).contains("a server or a client"));
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() > 50, "{} lines", lines.len());
    for cut in [1, 20, lines[0].len() - 1] {
        assert!(Transcript::parse(&lines[0][..cut]).is_err());
    }
}
