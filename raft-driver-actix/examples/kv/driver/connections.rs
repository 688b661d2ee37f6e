//! HTTP on clients' connections, by actix-web: its application, and its protocol over connections that others accepted.
//!
//! * actix-web's types of requests and answers are of an older generation than the front's; they are translated here.
//! * What actix-http does not let be set: how many requests there are at a time on an HTTP/2 connection, though all
//!   together are limited; the head of a request, which ends at 128 KiB; a farewell on HTTP/2, so that a connection on which
//!   nobody asks any more just ends.

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

use crate::http::Front;
use crate::http::activity::Activity;
use crate::http::answer::Problem;
use crate::http::content::Content;
use crate::http::listen::IDLE_LIMIT;
use crate::node::Node;

/// Answers are handed on in pieces of so much: what was copied out of one is not counted as unsent.
const PIECE_BYTES: usize = 16 * 1024;

type Handler = RcService<(TcpStream, Protocol, Option<SocketAddr>), (), DispatchError>;
/// Whose connection is being opened: actix-http asks for it meanwhile, for the requests to come.
type Opening = Rc<Cell<Option<Arc<Activity>>>>;

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
                if let Some(activity) = opened.take() {
                    connection.insert(activity);
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
    /// answer on HTTP/1.1; on HTTP/2, and where nothing is asked any more, it is left to whoever waits for it.
    pub(crate) async fn serve(self, stream: TcpStream, version: Version) {
        let protocol = if version == Version::HTTP_2 { Protocol::Http2 } else { Protocol::Http1 };
        self.opening.set(Some(self.activity));
        if let Err(error) = self.handler.call((stream, protocol, None)).await {
            tracing::debug!(%error, "a client's connection ended");
        }
    }
}

async fn answer<N: Node>(
    request: HttpRequest,
    body: web::Payload,
    front: web::Data<Front<N>>,
) -> HttpResponse<Pieces> {
    let failed =
        || HttpResponse::with_body(StatusCode::INTERNAL_SERVER_ERROR, Content::Whole(Bytes::new()).into());
    // Put there when the connection was opened.
    let Some(activity) = request.conn_data::<Arc<Activity>>() else { return failed() };
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
    response.message_body(content.into()).unwrap_or_else(|error| {
        tracing::error!(%error, "an answer cannot be told");
        failed()
    })
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
}

impl From<Content> for Pieces {
    fn from(content: Content) -> Self {
        Self { next: Bytes::new(), content }
    }
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
