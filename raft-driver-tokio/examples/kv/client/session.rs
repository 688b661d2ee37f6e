//! Writes that happen once, however often they are tried: one client's session, used by one at a time.
//!
//! * It is opened at the first write, and anew when the cluster forgot it.
//! * Each write has a number. While its outcome is unknown it is repeated under the same number; the next write has the
//!   next one, and from then on the cluster performs no earlier one.

use bytes::Bytes;
use hyper::header::HeaderValue;
use hyper::{Method, StatusCode};
use serde::Deserialize;

use crate::client::{Ask, Client, Failed, Until};
use crate::http::route::{SEQUENCE, SESSION};

/// A session that is opened when it is needed.
#[derive(Debug, Default)]
pub(crate) struct Session {
    /// Its number, and that of its next write.
    open: Option<(u64, u64)>,
}

/// What `POST /sessions` answers.
#[derive(Deserialize)]
struct Opened {
    session: u64,
}

impl Session {
    /// Performs a write once, or says that nobody knows whether it was performed.
    pub(crate) async fn write(
        &mut self,
        client: &Client,
        mut ask: Ask,
        until: Until<'_>,
    ) -> Result<(StatusCode, Bytes), Failed> {
        ask.repeatable = true;
        loop {
            let (session, sequence) = match self.open {
                Some(open) => open,
                None => match open(client, until).await? {
                    Ok(session) => (session, 1),
                    Err(answer) => return Ok(answer),
                },
            };
            self.open = Some((session, sequence + 1));
            ask.headers.insert(SESSION, HeaderValue::from(session));
            ask.headers.insert(SEQUENCE, HeaderValue::from(sequence));
            let (answer, doubtful) = client.exchange(None, &ask, until).await;
            match answer {
                // Others made it the one that was used the longest time ago.
                Ok((StatusCode::GONE, _)) if doubtful => {
                    self.open = None;
                    return Err(Failed::Unknown("the session expired while the write was repeated".into()));
                }
                Ok((StatusCode::GONE, _)) if !until.over() => self.open = None,
                answer => return answer,
            }
        }
    }
}

/// The number of a new session, or an answer that is none. One that was opened without this client hearing of it is
/// forgotten in its time.
async fn open(client: &Client, until: Until<'_>) -> Result<Result<u64, (StatusCode, Bytes)>, Failed> {
    let ask = Ask::new(Method::POST, "/sessions").repeatable();
    let (status, body) = match client.send(&ask, until).await {
        Ok(answer) => answer,
        // Whatever became of the session, nothing was written.
        Err(Failed::NotDone(why) | Failed::Unknown(why)) => return Err(Failed::NotDone(why)),
    };
    Ok(match (status, serde_json::from_slice::<Opened>(&body)) {
        (StatusCode::OK, Ok(opened)) => Ok(opened.session),
        _ => Err((status, body)),
    })
}
