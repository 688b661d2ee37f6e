//! A path through a model as protocol lines.

use raft_core::{Action, LogTask, MachineTask, Notice, SnapshotTask};

use super::state::{Choice, Local, State};
use super::tables::Tables;

/// One line for each choice, and below it what the server did.
pub(super) fn trace(start: State, path: &[Choice], tables: &mut Tables<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut state = start;
    for (number, choice) in (1..).zip(path) {
        lines.push(format!("{number:>3} {}", describe(*choice, &state, tables)));
        lines.extend(state.told(*choice, tables).iter().map(|line| format!("      {line}")));
        match state.after(*choice, tables) {
            Ok(next) => state = next,
            // The last one.
            Err(_) => break,
        }
    }
    lines
}

fn describe(choice: Choice, state: &State, tables: &Tables<'_>) -> String {
    match choice {
        Choice::Deliver(mail) => format!("{:?}", tables.mail(mail).message),
        Choice::Duplicate(mail) => format!("{:?}, and a copy stays on its way", tables.mail(mail).message),
        Choice::Drop(mail) => format!("{:?} is lost", tables.mail(mail).message),
        Choice::At(place, local) => {
            let known = tables.known(state.servers()[usize::from(place)]);
            let who = format!("n{}@{}", known.id, known.term);
            let what = match local {
                Local::Fire => "timer fires".to_owned(),
                Local::Sync(count) => format!("disk has synced {count} of {} writes", known.unsynced_writes),
                Local::Crash(kept, chunk) => {
                    let chunk = if chunk { ", and the chunk that was being written" } else { "" };
                    format!(
                        "crashes; its disk keeps {kept} of {} unsynced parts{chunk}",
                        known.unsynced_parts
                    )
                }
                Local::Restart => "starts again".to_owned(),
                Local::Machine => "machine does its next task".to_owned(),
                Local::Store => "store has the chunk".to_owned(),
                Local::Propose => "is given a command".to_owned(),
                Local::Read => "is asked for a read".to_owned(),
                Local::Change(target) => {
                    format!("is asked for the voters {:?}", tables.model.targets[usize::from(target)])
                }
                Local::Snapshot => "is asked for a snapshot".to_owned(),
                Local::Transfer(to) => format!("is asked to hand over to n{}", to + 1),
            };
            format!("{who} {what}")
        }
    }
}

/// What a server does, if it is worth a line.
pub(super) fn in_words(action: &Action) -> Option<String> {
    Some(match action {
        Action::Send(message) => format!("sends {message:?}"),
        Action::Log(LogTask::Write(write)) => {
            let hard_state = write.hard_state.map_or(String::new(), |hard| match hard.voted_for {
                Some(node) => format!(" term {} vote n{node}", hard.term),
                None => format!(" term {}", hard.term),
            });
            let reset = write.reset_to.map_or(String::new(), |base| format!(" reset to {base}"));
            format!("writes #{:?}{hard_state}{reset} {:?}", write.id, write.entries)
        }
        Action::Log(LogTask::Compact { through }) => format!("compacts through {through}"),
        Action::Machine(MachineTask::Apply(entries)) => format!("applies {entries:?}"),
        Action::Machine(MachineTask::Restore(meta)) => format!("restores {}", meta.id),
        Action::Machine(MachineTask::TakeSnapshot(meta)) => format!("takes snapshot {}", meta.id),
        Action::Machine(MachineTask::Serve(tickets)) => format!("serves {tickets:?}"),
        Action::Respond(response) => format!("answers {response:?}"),
        Action::Notify(Notice::Role { role, term }) => format!("is {role:?} in term {term}"),
        Action::Snapshot(task) => match task {
            SnapshotTask::Read { id, offset, .. } => format!("reads {id} from {offset}"),
            SnapshotTask::Write { meta, offset, done, .. } => {
                format!("stores {} from {offset}{}", meta.id, if *done { " to its end" } else { "" })
            }
            SnapshotTask::Forget(id) => format!("forgets {id}"),
        },
        Action::ReadLog { .. } | Action::Peers(_) | Action::Notify(_) => return None,
    })
}
