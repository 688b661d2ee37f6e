//! HTTP on clients' connections, by actix-web: its application, and its protocol over connections that others accepted.
//!
//! * actix-web's types of requests and answers are of an older generation than the front's; they are translated here.
//! * A connection with too many requests at a time is ended: actix-http does not tell clients of such a limit.
//! * Nor does it let be set: the head of a request, which ends at 128 KiB; a farewell on HTTP/2, so that a connection on
//!   which nobody asks any more just ends.

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use actix_http::error::{DispatchError, PayloadError};
use actix_http::{HttpService, KeepAlive, Protocol};
use actix_service::boxed::{self, RcService};
use actix_service::{IntoServiceFactory, Service, ServiceFactory, map_config};
use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{AppConfig, Payload};
use actix_web::http::{StatusCode, header};
use actix_web::{App, HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::Stream;
use hyper::body::{Body, Frame, SizeHint};
use hyper::{Request, Version};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::http::Front;
use crate::http::activity::Activity;
use crate::http::answer::Problem;
use crate::http::content::Content;
use crate::http::listen::IDLE_LIMIT;
use crate::node::Node;

/// Answers are handed on in pieces of so much: what was copied out of one is not counted as unsent.
const PIECE_BYTES: usize = 16 * 1024;

/// Requests at a time on one connection, those included whose answers were not taken yet.
const REQUESTS_MAX: usize = 1024;

type Handler = RcService<(TcpStream, Protocol, Option<SocketAddr>), (), DispatchError>;
/// Whose connection is being opened: actix-http asks for it meanwhile, for the requests to come.
type Opening = Rc<Cell<Option<Client>>>;

/// A connection, to those who answer its requests.
#[derive(Clone)]
struct Client {
    activity: Arc<Activity>,
    /// Each request holds one, until its answer was handed on.
    requests: Rc<()>,
    too_many: CancellationToken,
}

/// What all connections have in common.
pub(crate) struct Connections<N> {
    handler: Handler,
    opening: Opening,
    node: PhantomData<N>,
}

/// One connection.
pub(crate) struct Connection {
    handler: Handler,
    opening: Opening,
    activity: Arc<Activity>,
}

impl<N: Node> Connections<N> {
    /// `None` if actix-web cannot begin, which it logs.
    pub(crate) async fn new(front: Arc<Front<N>>) -> Option<Self> {
        let app = App::new().app_data(web::Data::from(front)).default_service(web::to(answer::<N>));
        let opening = Opening::default();
        let opened = Rc::clone(&opening);
        let service = HttpService::build()
            .keep_alive(KeepAlive::Timeout(IDLE_LIMIT))
            .client_request_timeout(IDLE_LIMIT)
            .on_connect_ext(move |_: &TcpStream, connection| {
                if let Some(client) = opened.take() {
                    connection.insert(client);
                }
            })
            .finish(map_config(app.into_factory(), |()| AppConfig::default()));
        let handler = boxed::rc_service(service.new_service(()).await.ok()?);
        Some(Self { handler, opening, node: PhantomData })
    }

    /// One more, and what is known of what it does.
    pub(crate) fn open(&self, activity: &Arc<Activity>) -> Connection {
        let (handler, opening) = (Rc::clone(&self.handler), Rc::clone(&self.opening));
        Connection { handler, opening, activity: Arc::clone(activity) }
    }
}

impl Connection {
    /// Serves a client until one of both sides has closed the connection. One that is to leave closes it with its next
    /// answer on HTTP/1.1; on HTTP/2, and where nothing is asked, it just ends.
    pub(crate) async fn serve(self, stream: TcpStream, version: Version) {
        let protocol = if version == Version::HTTP_2 { Protocol::Http2 } else { Protocol::Http1 };
        let too_many = CancellationToken::new();
        let activity = Arc::clone(&self.activity);
        let client = Client { activity: self.activity, requests: Rc::new(()), too_many: too_many.clone() };
        self.opening.set(Some(client));
        tokio::select! {
            ended = self.handler.call((stream, protocol, None)) => if let Err(error) = ended {
                tracing::debug!(%error, "a client's connection ended");
            },
            () = activity.dismissed() => {}
            () = too_many.cancelled() => tracing::debug!("a client has too many requests at a time"),
        }
    }
}

async fn answer<N: Node>(
    request: HttpRequest,
    body: web::Payload,
    front: web::Data<Front<N>>,
) -> HttpResponse<Pieces> {
    // Put there when the connection was opened.
    let Some(Client { activity, requests, too_many }) = request.conn_data::<Client>() else {
        return failed();
    };
    let counted = Rc::clone(requests);
    if Rc::strong_count(requests) > REQUESTS_MAX + 1 {
        too_many.cancel();
    }
    let answer = match translated(&request, body.into_inner()) {
        Ok(request) => front.into_inner().answer(request, Arc::clone(activity)).await,
        Err(error) => Problem::bad_request("bad_request", error, "send HTTP").answer().map(Content::Whole),
    };
    let (parts, content) = answer.into_parts();
    let status = StatusCode::from_u16(parts.status.as_u16()).expect("a status is a status");
    let mut response = HttpResponse::build(status);
    for (name, value) in &parts.headers {
        response.insert_header((name.as_str(), value.as_bytes()));
    }
    if activity.leave().is_cancelled() {
        response.force_close();
    }
    let pieces = Pieces { next: Bytes::new(), content, _request: Some(counted) };
    response.message_body(pieces).unwrap_or_else(|error| {
        tracing::error!(%error, "an answer cannot be told");
        failed()
    })
}

fn failed() -> HttpResponse<Pieces> {
    let nothing = Pieces { next: Bytes::new(), content: Content::Whole(Bytes::new()), _request: None };
    HttpResponse::with_body(StatusCode::INTERNAL_SERVER_ERROR, nothing)
}

/// A request as the front reads it.
fn translated(request: &HttpRequest, payload: Payload) -> Result<Request<Arriving>, hyper::http::Error> {
    let announced_bytes = request.headers().get(header::CONTENT_LENGTH);
    let announced_bytes = announced_bytes.and_then(|length| length.to_str().ok()?.parse().ok());
    let mut translated = Request::builder().method(request.method().as_str()).uri(request.uri().to_string());
    for (name, value) in request.headers() {
        translated = translated.header(name.as_str(), value.as_bytes());
    }
    translated.body(Arriving { payload, announced_bytes })
}

/// The body of a request.
struct Arriving {
    payload: Payload,
    announced_bytes: Option<u64>,
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = PayloadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, PayloadError>>> {
        let piece = ready!(Pin::new(&mut self.payload).poll_next(task));
        Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
    }

    fn size_hint(&self) -> SizeHint {
        self.announced_bytes.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// The body of an answer.
struct Pieces {
    /// What comes next of a part.
    next: Bytes,
    content: Content,
    /// Counts the request.
    _request: Option<Rc<()>>,
}

impl MessageBody for Pieces {
    type Error = io::Error;

    fn size(&self) -> BodySize {
        self.content.size_hint().exact().map_or(BodySize::Stream, BodySize::Sized)
    }

    fn poll_next(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.next.is_empty() {
            match ready!(self.content.poll_part(task)) {
                Some(Ok(part)) => self.next = part,
                ended => return Poll::Ready(ended),
            }
        }
        let piece_bytes = self.next.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(self.next.split_to(piece_bytes))))
    }
}
