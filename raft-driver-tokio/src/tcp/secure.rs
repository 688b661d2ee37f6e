//! From a socket to a connection that frames travel on: plain, or within TLS with both certificates verified.
//!
//! * Whoever speaks plain text where TLS is spoken, or the other way round, is told so, and no more than that.
//! * What TLS says of the peer's certificate becomes a [`Refusal`], on both sides.

use std::io;

use raft_core::NodeId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cluster::ClusterId;
use crate::tcp::stream::Stream;
use crate::tcp::{Refusal, TcpConfig};

/// Bytes that are read and thrown away from a peer that is sent away.
const REST_BYTES_MAX: usize = 64 * 1024;
/// The first byte of a TLS connection, and the second.
const TLS_RECORD: [u8; 2] = [22, 3];

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "plain text alone knows no such thing"))]
pub(crate) enum Insecure {
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Neither plain text nor TLS as it is spoken here.
    #[error("not TLS as it is spoken here: {0}")]
    Malformed(io::Error),
    #[error("{refusal}")]
    Refused { refusal: Refusal, by_peer: bool },
}

/// A connection that was accepted.
#[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "plain text alone knows no such thing"))]
pub(crate) enum Accepted {
    /// Ready for the handshake.
    Ready(Stream),
    /// The peer speaks plain text, and must not.
    Plain(Stream),
    /// The peer speaks TLS, which is not spoken here.
    Tls(Stream),
    /// TLS has failed, and may have told the peer why.
    #[cfg(feature = "tls")]
    Failed(Stream, Insecure),
}

/// Begins TLS on a connection that this node made to `peer`, if the configuration says so.
pub(crate) async fn connect(config: &TcpConfig, stream: TcpStream, peer: NodeId) -> Result<Stream, Insecure> {
    #[cfg(feature = "tls")]
    if let Some(tls) = &config.tls {
        use crate::tcp::tls::server_name;
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::clone(&tls.latest().await.client));
        let name = server_name(config.cluster, peer);
        return match connector.connect(name, stream).into_fallible().await {
            Ok(stream) => {
                let stream = Stream::Tls(Box::new(stream.into()));
                if is(&stream, config.cluster, peer) {
                    Ok(stream)
                } else {
                    Err(Insecure::Refused { refusal: Refusal::Name, by_peer: false })
                }
            }
            Err((error, stream)) => {
                end(stream).await;
                Err(why(error))
            }
        };
    }
    let _ = (config, peer);
    Ok(Stream::Plain(stream))
}

/// Begins TLS on a connection that was accepted, if the configuration says so.
pub(crate) async fn accept(config: &TcpConfig, stream: TcpStream) -> io::Result<Accepted> {
    let mut first = [0; 3];
    let count = stream.peek(&mut first).await?;
    if count == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    // The third byte of a frame that holds a handshake is zero, that of TLS is not.
    let is_tls = first[..2] == TLS_RECORD && first[2] != 0;
    #[cfg(feature = "tls")]
    if let Some(tls) = &config.tls {
        if !is_tls && (count == first.len() || first[0] != TLS_RECORD[0]) {
            return Ok(Accepted::Plain(Stream::Plain(stream)));
        }
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::clone(&tls.latest().await.server));
        return match acceptor.accept(stream).into_fallible().await {
            Ok(stream) => Ok(Accepted::Ready(Stream::Tls(Box::new(stream.into())))),
            Err((error, stream)) => Ok(Accepted::Failed(Stream::Plain(stream), why(error))),
        };
    }
    let _ = config;
    let stream = Stream::Plain(stream);
    Ok(if is_tls { Accepted::Tls(stream) } else { Accepted::Ready(stream) })
}

/// Whether the peer's certificate is that of this node and of no other. Plain text vouches for nobody, and is
/// believed.
pub(crate) fn is(stream: &Stream, cluster: ClusterId, node: NodeId) -> bool {
    match stream {
        Stream::Plain(_) => {
            let _ = (cluster, node);
            true
        }
        #[cfg(feature = "tls")]
        Stream::Tls(stream) => {
            let certificates = stream.get_ref().1.peer_certificates();
            let own = certificates.and_then(|certificates| certificates.first());
            own.is_some_and(|own| crate::tcp::tls::names(own, cluster, node))
        }
    }
}

/// What an error of a connection means. In TLS 1.3 the side that connects hears only afterwards what the other one
/// thinks of its certificate.
pub(crate) fn why(error: io::Error) -> Insecure {
    #[cfg(feature = "tls")]
    if let Some(error) = error.get_ref().and_then(|error| error.downcast_ref::<tokio_rustls::rustls::Error>())
    {
        use tokio_rustls::rustls::{AlertDescription as Alert, Error as Tls, InvalidMessage};
        let (refusal, by_peer) = match error {
            Tls::InvalidCertificate(error) => (crate::tcp::tls::refusal_of(error), false),
            Tls::NoCertificatesPresented => (Refusal::Certificate, false),
            Tls::InvalidMessage(InvalidMessage::InvalidContentType) => (Refusal::Tls, false),
            Tls::AlertReceived(Alert::UnknownCA | Alert::DecryptError) => (Refusal::Untrusted, true),
            Tls::AlertReceived(Alert::CertificateExpired) => (Refusal::Expired, true),
            Tls::AlertReceived(
                Alert::BadCertificate
                | Alert::UnsupportedCertificate
                | Alert::CertificateRevoked
                | Alert::CertificateUnknown
                | Alert::CertificateRequired
                | Alert::AccessDenied,
            ) => (Refusal::Certificate, true),
            _ => return Insecure::Malformed(io::Error::new(io::ErrorKind::InvalidData, error.clone())),
        };
        return Insecure::Refused { refusal, by_peer };
    }
    Insecure::Io(error)
}

/// Ends a connection so that what was sent last arrives: to close it while bytes wait to be read would reset it.
/// The caller limits the time.
pub(crate) async fn end(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    // Whoever is gone already need not be told.
    let _ = stream.shutdown().await;
    let mut rest = [0; 1024];
    let mut left = REST_BYTES_MAX;
    while left > 0 {
        match stream.read(&mut rest).await {
            Ok(bytes) if bytes > 0 => left = left.saturating_sub(bytes),
            _ => return,
        }
    }
}
