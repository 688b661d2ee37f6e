//! What a browser could be made to ask of this node by a web page of somebody else, and that it is refused.
//!
//! * A change from a page of another site, by the `Origin` that browsers add to it.
//! * Anything at all under a name that is not this node's: whoever owns a name may let it point here, and a page of
//!   that name is of the same site as far as the browser is concerned ("DNS rebinding").

#![allow(clippy::result_large_err, reason = "a refusal is an answer, made once a request at most")]

use std::net::IpAddr;

use hyper::header::{HOST, HeaderMap, ORIGIN};
use hyper::http::uri::Authority;
use hyper::{Method, StatusCode, Uri};

use crate::http::answer::{Known, Problem};
use crate::http::route::clipped;

/// The host that a request is for, with its port. HTTP/2 names it in the address.
fn host<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    host.or_else(|| uri.authority().map(Authority::as_str))
}

/// That a request is for this node under a name that it has: `is_known` decides of names. A numeric address is no name
/// that could be pointed elsewhere.
pub(crate) fn known_host(
    uri: &Uri,
    headers: &HeaderMap,
    is_known: impl FnOnce(&str) -> bool,
) -> Result<(), Problem> {
    // No browser leaves it out.
    let Some(host) = host(uri, headers) else { return Ok(()) };
    let name = host_name(host);
    let number = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
    if number || name.eq_ignore_ascii_case("localhost") || is_known(name) {
        return Ok(());
    }
    let message = format!("this node does not know itself as '{}'", clipped(name));
    let next = "use its address or a name that it knows; an operator adds names with --host NAME";
    let problem = Problem::new(StatusCode::MISDIRECTED_REQUEST, "foreign_host", message, next);
    Err(problem.known(Known::DidNotHappen))
}

/// A host without its port.
pub(crate) fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// That a request which changes something does not come from a web page of somewhere else: a browser that reaches this
/// port would carry out what any page asks for.
pub(crate) fn same_site(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(origin) = headers.get(ORIGIN).filter(|_| *method != Method::GET) else { return Ok(()) };
    let from = origin.to_str().ok().and_then(|origin| origin.split_once("://"));
    match (from, host(uri, headers)) {
        (Some((_, from)), Some(host)) if from.eq_ignore_ascii_case(host) => Ok(()),
        _ => {
            let message = "a web page of another site asked for a change";
            let next = "use a client that is no browser, or a page of this node";
            let problem = Problem::new(StatusCode::FORBIDDEN, "foreign_origin", message, next);
            Err(problem.known(Known::DidNotHappen))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_another_site_changes_nothing() {
        let site = |method: Method, origin: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(HOST, "127.0.0.1:8101".parse().unwrap());
            headers.extend(origin.map(|origin| (ORIGIN, origin.parse().unwrap())));
            same_site(&method, &Uri::from_static("/transfer"), &headers).map_err(|refused| refused.status)
        };
        assert_eq!(site(Method::POST, None), Ok(()), "no browser");
        assert_eq!(site(Method::POST, Some("http://127.0.0.1:8101")), Ok(()), "its own page");
        assert_eq!(site(Method::GET, Some("http://elsewhere.example")), Ok(()), "changes nothing");
        for origin in ["http://elsewhere.example", "null", "http://127.0.0.1:8102"] {
            assert_eq!(site(Method::POST, Some(origin)), Err(StatusCode::FORBIDDEN), "{origin}");
        }
    }

    #[test]
    fn a_name_that_is_not_the_nodes_is_refused() {
        let asked = |host: &str| {
            let headers: HeaderMap = [(HOST, host.parse().unwrap())].into_iter().collect();
            let known = known_host(&Uri::from_static("/status"), &headers, |name| name == "node1.example");
            let http2 = format!("http://{host}/status").parse().unwrap();
            let the_same = known_host(&http2, &HeaderMap::new(), |name| name == "node1.example");
            assert_eq!(known.is_ok(), the_same.is_ok(), "{host}");
            known.map_err(|refused| refused.status)
        };
        for host in ["127.0.0.1:8101", "10.0.0.1", "[::1]:8101", "[::1]", "localhost:8101", "LocalHost"] {
            assert_eq!(asked(host), Ok(()), "{host}");
        }
        assert_eq!(asked("node1.example:8101"), Ok(()), "as --peer names it");
        for host in
            ["evil.example:8101", "127.0.0.1.evil.example", "localhost.evil.example:8101", "node1.example.:1"]
        {
            assert_eq!(asked(host), Err(StatusCode::MISDIRECTED_REQUEST), "{host}");
        }
        assert!(known_host(&Uri::from_static("/status"), &HeaderMap::new(), |_| false).is_ok());
    }
}
