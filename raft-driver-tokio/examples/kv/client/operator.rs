//! `kv status`, `kv member`, `kv transfer` and `kv snapshot`.
//!
//! * Everything asked for here may be asked for again: what is done already stays as it is.

use std::time::Duration;

use hyper::{Method, StatusCode};
use raft_core::NodeId;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::cli::{MemberCommand, Snapshot, Status, Transfer};
use crate::client::commands::{print, refused, unfinished, with};
use crate::client::{Ask, Client, Failed, Until, told};
use crate::failure::{Failure, Kind};
use crate::http::admin::HALF_DONE;

/// How long one node is asked how it is.
const LOOK_LIMIT: Duration = Duration::from_secs(2);
/// Between two looks at a change that takes long.
const PAUSE: Duration = Duration::from_millis(100);

/// `kv status`.
pub(crate) fn status(options: &Status) -> Result<(), Failure> {
    let all = with(&options.reach, async |client, until| look(client, until).await)??;
    if options.json {
        return all
            .iter()
            .filter_map(|(_, _, found)| found.as_ref())
            .try_for_each(|found| print(format!("{found}\n").as_bytes()));
    }
    let leader = all.iter().filter_map(|(_, _, found)| found.as_ref());
    let leader = leader.filter(|found| found["role"] == "leader").max_by_key(|found| found["term"].as_u64());
    let mut text = format!(
        "{:<5} {:<22} {:<14} {:>6} {:>12} {:>12} {:>8} {:>12}\n",
        "node", "http", "role", "term", "commit", "applied", "lag", "keys"
    );
    for (id, http, found) in &all {
        let figure = |value: &Value| value.as_u64().map_or("-".to_owned(), |value| value.to_string());
        let peers = leader.and_then(|leader| leader["peers"].as_array());
        let peer = peers.and_then(|peers| peers.iter().find(|peer| peer["id"] == *id));
        let leads = leader.is_some_and(|leader| leader["id"] == *id);
        let lag = peer.map_or(if leads { "0" } else { "-" }.to_owned(), |peer| figure(&peer["lag_entries"]));
        let found = found.as_ref().unwrap_or(&Value::Null);
        text.push_str(&format!(
            "{id:<5} {http:<22} {:<14} {:>6} {:>12} {:>12} {lag:>8} {:>12}\n",
            found["role"].as_str().unwrap_or("no answer"),
            figure(&found["term"]),
            figure(&found["commit_index"]),
            figure(&found["last_applied"]),
            figure(&found["machine"]["keys"]),
        ));
    }
    print(text.as_bytes())
}

/// `kv member ...`.
pub(crate) fn member(command: MemberCommand) -> Result<(), Failure> {
    match command {
        MemberCommand::List { reach } => {
            let newest =
                with(&reach, async |client, until| newest(client, until).await)?.map_err(not_done)?;
            let mut text = format!("{:<5} {:<8} {:<22} {:<22}\n", "node", "kind", "raft", "http");
            for member in newest["members"].as_array().into_iter().flatten() {
                let kind = if member["voter"] == true { "voter" } else { "learner" };
                let known = |name: &str| member[name].as_str().unwrap_or("-").to_owned();
                let line =
                    format!("{:<5} {kind:<8} {:<22} {:<22}\n", member["id"], known("raft"), known("http"));
                text.push_str(&line);
            }
            if newest["changing"] == true {
                text.push_str("a change is in progress\n");
            }
            print(text.as_bytes())
        }
        MemberCommand::Add { id, raft, http, learner, reach } => {
            let mut body = json!({ "id": id.get(), "learner": learner });
            for (name, address) in [("raft", raft), ("http", http)] {
                if let Some(address) = address {
                    body[name] = address.into();
                }
            }
            let ask = Ask::new(Method::POST, "/members").body(body.to_string()).repeatable();
            let done = format!("node {id} is a {}", if learner { "learner" } else { "voter" });
            with(&reach, async |client, until| change(client, &ask, until).await)??;
            print(format!("{done}\n").as_bytes())
        }
        MemberCommand::Remove { id, reach } => {
            let ask = Ask::new(Method::DELETE, format!("/members/{id}")).repeatable();
            with(&reach, async |client, until| change(client, &ask, until).await)??;
            print(format!("node {id} is no member; switch it off\n").as_bytes())
        }
        MemberCommand::Cancel { reach } => {
            let ask = Ask::new(Method::POST, "/members/cancel").repeatable();
            with(&reach, async |client, until| done(client.send(&ask, until).await))??;
            print(b"given up\n")
        }
    }
}

/// `kv transfer`.
pub(crate) fn transfer(options: &Transfer) -> Result<(), Failure> {
    let body = options.to.map_or(json!({}), |to| json!({ "to": to.get() }));
    // Once only without a name: twice would move it twice.
    let ask = Ask::new(Method::POST, "/transfer").body(body.to_string());
    let ask = if options.to.is_some() { ask.repeatable() } else { ask };
    let answered = with(&options.reach, async |client, until| client.send(&ask, until).await)?;
    match answered.map_err(not_done)? {
        (StatusCode::OK, body) => {
            let leader = serde_json::from_slice::<Value>(&body).unwrap_or_default();
            print(format!("node {} leads\n", leader["leader"]).as_bytes())
        }
        (status, body) => Err(refused(status, &body)),
    }
}

/// `kv snapshot`.
pub(crate) fn snapshot(options: &Snapshot) -> Result<(), Failure> {
    let lines = with(&options.reach, async |client, until| snapshots(client, options.node, until).await)??;
    print(lines.as_bytes())
}

async fn snapshots(client: &Client, node: Option<NodeId>, until: Until<'_>) -> Result<String, Failure> {
    let newest = newest(client, until).await.map_err(not_done)?;
    let members = newest["members"].as_array().cloned().unwrap_or_default();
    let members: Vec<Value> =
        members.into_iter().filter(|member| node.is_none_or(|node| member["id"] == node.get())).collect();
    if members.is_empty() {
        return Err(Failure::new(Kind::Refused, "there is no such member", "look at `kv member list`"));
    }
    let mut lines = String::new();
    for member in members {
        let Some(http) = member["http"].as_str() else {
            return Err(Failure::new(
                Kind::NotDone,
                format!("where clients reach node {} is not known", member["id"]),
                format!("kv member add {} --http HOST:PORT", member["id"]),
            ));
        };
        let ask = Ask::new(Method::POST, "/snapshot").repeatable();
        let one = Client::new([http.to_owned()]);
        match one.send(&ask, until).await.map_err(not_done)? {
            (StatusCode::OK, _) => lines.push_str(&format!("node {}: taken\n", member["id"])),
            (StatusCode::CONFLICT, body) => {
                lines.push_str(&format!("node {}: {}\n", member["id"], told(StatusCode::CONFLICT, &body)));
            }
            (status, body) => return Err(refused(status, &body)),
        }
    }
    Ok(lines)
}

/// The status of whoever answers, with the highest term.
async fn newest(client: &Client, until: Until<'_>) -> Result<Value, Failed> {
    let ask = Ask::new(Method::GET, "/status");
    let mut newest = Value::Null;
    // All that are named: one may have been removed without knowing it.
    let asked = async |node: usize| {
        let until = Until { deadline: until.deadline.min(Until::limit(LOOK_LIMIT).deadline), ..until };
        client.ask_one::<Value>(node, &ask, until).await
    };
    for node in 0..client.len() {
        if let Some(found) = asked(node).await
            && (found["term"].as_u64(), found["commit_index"].as_u64())
                > (newest["term"].as_u64(), newest["commit_index"].as_u64())
        {
            newest = found;
        }
    }
    match newest {
        Value::Null => Err(Failed::NotDone("no node answers".into())),
        newest => Ok(newest),
    }
}

/// Every member with its address and what it says.
async fn look(client: &Client, until: Until<'_>) -> Result<Vec<(u64, String, Option<Value>)>, Failure> {
    let newest = newest(client, until).await.map_err(not_done)?;
    let ask = Ask::new(Method::GET, "/status");
    let mut all = Vec::new();
    for member in newest["members"].as_array().into_iter().flatten() {
        let id = member["id"].as_u64().unwrap_or_default();
        let http = member["http"].as_str();
        let found = match http {
            Some(http) => Client::new([http.to_owned()]).ask_one(0, &ask, Until::limit(LOOK_LIMIT)).await,
            None => None,
        };
        all.push((id, http.unwrap_or("-").to_owned(), found));
    }
    if all.is_empty() {
        let id = newest["id"].as_u64().unwrap_or_default();
        all.push((id, "-".to_owned(), Some(newest)));
    }
    Ok(all)
}

/// Asks for other members until that is done.
async fn change(client: &Client, ask: &Ask, until: Until<'_>) -> Result<(), Failure> {
    loop {
        let failed = match client.send(ask, until).await {
            Ok((StatusCode::OK, _)) => return Ok(()),
            // It goes on; asked again, the answer is that it is in progress, or done.
            Ok((StatusCode::ACCEPTED, _)) => Failed::Unknown("the change takes longer, and goes on".into()),
            Ok((status, body)) if ["change_in_progress", HALF_DONE].contains(&&*kind(&body)) => {
                Failed::Unknown(told(status, &body))
            }
            Ok((status, body)) => return Err(refused(status, &body)),
            Err(failed) => return Err(not_changed(failed)),
        };
        if until.over() {
            return Err(not_changed(failed));
        }
        sleep(PAUSE).await;
    }
}

/// What kind of refusal it is.
fn kind(body: &[u8]) -> String {
    let said: Value = serde_json::from_slice(body).unwrap_or_default();
    said["error"].as_str().unwrap_or_default().to_owned()
}

fn not_done(failed: Failed) -> Failure {
    unfinished(failed, "look at `kv status` to find out")
}

/// A change waits for new voters until they have caught up.
fn not_changed(failed: Failed) -> Failure {
    let advice = "see that every node which is to take part runs, and look at `kv member list`; `kv member cancel` takes the \
                  change back";
    unfinished(failed, advice)
}

fn done(answered: Result<(StatusCode, bytes::Bytes), Failed>) -> Result<(), Failure> {
    match answered.map_err(not_changed)? {
        (StatusCode::OK, _) => Ok(()),
        (status, body) => Err(refused(status, &body)),
    }
}
