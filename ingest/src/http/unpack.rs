//! Bodies that come packed: `Content-Encoding: gzip` and `zstd`.
//!
//! A body is unpacked piece by piece. Before a piece is kept, the request's share of memory grows by it, and the limit of
//! a body holds for what comes out: a small body that unpacks to a large one is refused as soon as it is too large.

use std::io::{Cursor, Read};

use axum::http::{HeaderMap, StatusCode, header};
use bytes::{Bytes, BytesMut};
use starmere_lake::echo::cut;

use super::request::{grow, too_large};
use super::{Limits, Refusal};
use crate::memory::{Memory, Share};

/// How a body is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    Gzip,
    Zstd,
}

/// So much is unpacked at once.
const PIECE: usize = 64 << 10;
/// What unpacking takes beside a window: states and blocks.
const STATE: usize = 256 << 10;
/// The window of zstd over HTTP (RFC 9659): 8 MiB.
const MOST_WINDOW: usize = 8 << 20;

/// How the body is packed, if it is.
pub(super) fn packing(headers: &HeaderMap) -> Result<Option<Packing>, Refusal> {
    let codings = headers.get_all(header::CONTENT_ENCODING).iter();
    let codings: Vec<&str> = codings.map(|coding| coding.to_str().unwrap_or("?").trim()).collect();
    let coding = codings.join(", ").to_ascii_lowercase();
    match coding.as_str() {
        "" | "identity" => Ok(None),
        "gzip" | "x-gzip" => Ok(Some(Packing::Gzip)),
        "zstd" => Ok(Some(Packing::Zstd)),
        _ => {
            let message = format!("content encoding `{}` is not read here", cut(&coding));
            let hint = "send the body as it is, or packed once, with gzip or zstd";
            Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message, hint))
        }
    }
}

/// The body unpacked, or nothing: one that is damaged or too large is refused. `share` covers it.
pub(super) async fn unpacked(
    body: Bytes,
    packing: Packing,
    limits: &Limits,
    memory: &Memory,
    share: &mut Share,
) -> Result<Bytes, Refusal> {
    let damaged = |error: std::io::Error| {
        let message = format!("the body cannot be unpacked: {error}");
        let hint = "nothing has landed; send all of it, packed as `Content-Encoding` says; zstd with a window of 8 MiB \
                    or less";
        Refusal::new(StatusCode::BAD_REQUEST, message, hint)
    };
    // Where there is little memory, a smaller window has to do.
    let window_log = memory.at_most(2 * MOST_WINDOW).ilog2() - 1;
    let held = body.len()
        + STATE
        + match packing {
            Packing::Gzip => 0,
            Packing::Zstd => 1 << window_log,
        };
    grow(share, held, body.len(), memory).await?;
    let mut reader: Box<dyn Read + Send> = match packing {
        Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(Cursor::new(body))),
        Packing::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(Cursor::new(body)).map_err(damaged)?;
            decoder.window_log_max(window_log).map_err(damaged)?;
            Box::new(decoder)
        }
    };
    let mut piece = vec![0; PIECE];
    let mut whole = BytesMut::new();
    loop {
        let length = reader.read(&mut piece).map_err(damaged)?;
        if length == 0 {
            break;
        }
        let bytes = whole.len() + length;
        if bytes > limits.body_bytes {
            return Err(too_large(limits.body_bytes));
        }
        grow(share, held + bytes, bytes, memory).await?;
        whole.extend_from_slice(&piece[..length]);
        // It takes its time: others come in between.
        tokio::task::yield_now().await;
    }
    drop(reader);
    share.shrink(whole.len());
    Ok(whole.freeze())
}
